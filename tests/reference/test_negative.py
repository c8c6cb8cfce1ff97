"""A negative prompt takes the place of no prompt: greedy tokens, step by step, from logits of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from hemiola.musicgen.batch import Job
from hemiola.musicgen.delay import DelayPattern
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.sampling import Sampling

WORDS = ["slow", "piano", "with", "rain", "calm", "bright", "drums"]
FRAMES, BOOKS, ENTRIES = 15, 4, 32


def reference_model() -> transformers.MusicgenForConditionalGeneration:
    torch.manual_seed(8)
    codec = {"sampling_rate": 800, "upsampling_ratios": [4, 2], "num_filters": 2, "hidden_size": 8, "codebook_size": 32}
    decoder = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "vocab_size": 32}
    config = transformers.MusicgenConfig(
        text_encoder=transformers.T5Config(vocab_size=60, d_model=20, d_kv=4, d_ff=24, num_layers=1, num_heads=4),
        audio_encoder=transformers.EncodecConfig(target_bandwidths=[5.0], num_lstm_layers=1, **codec),
        decoder=transformers.MusicgenDecoderConfig(num_codebooks=BOOKS, pad_token_id=32, bos_token_id=32, **decoder),
    )
    model = transformers.MusicgenForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        if name.startswith(("decoder.", "enc_to_dec")):
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
    return model


@torch.inference_mode()
def greedy(
    reference: transformers.MusicgenForConditionalGeneration, ids: list[int], away: list[int], scale: float
) -> np.ndarray:
    """Codes [K, FRAMES]: at each step the token with the largest away + scale (towards - away)."""
    pattern = DelayPattern((0, 1, 2, 3), ENTRIES)
    inside = pattern.mask(FRAMES)
    tokens = np.full((BOOKS, 1), ENTRIES)
    for position in range(1, pattern.steps(FRAMES) + 1):
        towards, other = (
            reference(
                input_ids=torch.tensor([text]),
                attention_mask=torch.ones(1, len(text), dtype=torch.long),
                decoder_input_ids=torch.tensor(tokens),
            ).logits[:, -1]
            for text in (ids, away)
        )
        picked = (other + scale * (towards - other)).argmax(-1).numpy()
        tokens = np.concatenate([tokens, np.where(inside[:, position], picked, ENTRIES)[:, None]], axis=1)
    return pattern.undo(tokens, FRAMES)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_greedy_tokens_with_a_negative_prompt(backend: str, tmp_path: Path) -> None:
    reference = reference_model()
    reference.save_pretrained(tmp_path)
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: 3 + index for index, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours = MusicgenModel.from_pretrained(tmp_path, backend=backend, device="cpu")
    prompt, negative = "slow piano with rain", "bright drums"
    wanted = greedy(reference, ours.tokenizer.encode(prompt), ours.tokenizer.encode(negative), 3.0)
    sampling = Sampling(temperature=0)
    (found,) = ours.tokens([Job(prompt, FRAMES, negative=negative, sampling=sampling)])
    assert np.array_equal(found[0], wanted)
    (without,) = ours.tokens([Job(prompt, FRAMES, sampling=sampling)])
    assert not np.array_equal(without[0], wanted)
