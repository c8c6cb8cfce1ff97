"""The contest of decoding: the same work on both sides, and what a step has to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hemiola.bench import generate_torch as bench
from hemiola.musicgen.model import MusicgenModel


def test_what_a_step_reads_by_hand() -> None:
    # A layer: 4 matrices of self-attention, 2 of the text's, 2 of the feed-forward, 6 vectors of norms; then the rest.
    layer = 6 * 256 * 256 + 2 * 256 * 1024 + 6 * 256
    assert sum(each.numel() for each in bench._step_weights(bench.SIZES["sketch"])) == 4 * layer + 4 * 512 * 256 + 512


def test_both_sides_play_the_same_tokens_when_nothing_is_left_to_chance(tmp_path: Path) -> None:
    import transformers

    checkpoint = bench.write_checkpoint(tmp_path, "sketch")
    ours = MusicgenModel.from_pretrained(checkpoint, backend="torch", device="cpu")
    model = transformers.MusicgenForConditionalGeneration.from_pretrained(checkpoint).eval()
    words = transformers.AutoTokenizer.from_pretrained(checkpoint)(bench.PROMPT)["input_ids"]
    assert ours.tokenizer.encode(bench.PROMPT) == words
    assert len(words) > 5
    codes = np.random.default_rng(0).integers(512, size=(4, 6)).astype(np.int32)
    found = bench.guided_logits(ours, codes=codes)
    rows = torch.full((1, 4, 6), 512)
    for k in range(4):
        rows[0, k, k + 1 :] = torch.from_numpy(codes[k, : 5 - k].astype(np.int64))
    with torch.inference_mode():
        hidden = model.text_encoder(torch.tensor([words])).last_hidden_state
        hidden = model.enc_to_dec_proj(hidden)
        states = torch.cat([hidden, torch.zeros_like(hidden)])
        out = model.decoder(rows.repeat(2, 1, 1).flatten(0, 1), encoder_hidden_states=states)
        logits = out.logits.view(2, 4, 6, -1)
    guided = logits[1] + 3.0 * (logits[0] - logits[1])
    torch.testing.assert_close(found, guided.movedim(0, 1), atol=1e-4, rtol=1e-4)


def test_a_report_has_every_contender(tmp_path: Path) -> None:
    work = bench.Work("sketch", batch=2, steps=6, device="cpu")
    report = bench.measure(tmp_path, work, ["float32", "int8"], ["float32"], rounds=1)
    assert set(report["rows"]) == {"hemiola float32", "hemiola int8", "transformers float32"}
    row = report["rows"]["hemiola float32"]
    # Six steps give three frames of each of two pieces.
    assert row["ms_per_step"] * row["frames_per_second"] == pytest.approx(1000 * 2 * 3 / 6)
    assert 0 <= report["against_float32"]["int8"]["mean_kl_nats"] < 0.01
