"""The decoder in 8 and 4 bits: what becomes of its logits, its size, and the command line's record."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from mlx.utils import tree_flatten

from hemiola.backend import Backend
from hemiola.cli import main
from hemiola.errors import BackendError
from hemiola.musicgen.batch import Batch, Job
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.decoder_mlx import Decoder
from hemiola.musicgen.session_mlx import Engine
from hemiola.musicgen.t5_mlx import T5Encoder

TEXT = T5Config(vocab_size=20, d_model=20, d_kv=5, d_ff=24, num_layers=1, num_heads=4)


def engines(width: int) -> dict[int | None, Engine]:
    """One random decoder as it is, in 8 bits and in 4."""
    config = DecoderConfig(
        vocab_size=128, hidden_size=width, num_hidden_layers=2, num_attention_heads=4, ffn_dim=2 * width
    )
    mx.random.seed(width)
    decoder, text = Decoder(config, TEXT.d_model), T5Encoder(TEXT)
    parts = {"decoder": dict(tree_flatten(decoder.parameters())), "text_encoder": dict(tree_flatten(text.parameters()))}
    return {bits: Engine(TEXT, config, parts, Backend("mlx", "cpu", "float32", bits)) for bits in (None, 8, 4)}


def logits_of(engine: Engine) -> np.ndarray:
    """Guided logits [steps, K, vocab] while every step is fed the same tokens."""
    codes = np.random.default_rng(0).integers(128, size=(4, 12))
    batch = Batch((Job("", 13, prompt=codes),), engine.decoder.config.pattern)
    session = engine.begin(batch, [engine.states([3, 5, 1]), None])
    found: list[mx.array] = []
    session.pick = lambda logits, draws: found.append(logits) or logits.argmax(-1)
    for position in range(13):
        session.step(np.maximum(batch.script[position], 0), position)
    return np.concatenate([np.array(each) for each in found])


@pytest.mark.parametrize("width", [32, 64, 96])
def test_fewer_bits_move_the_logits_by_their_share(width: int) -> None:
    found = {bits: logits_of(engine) for bits, engine in engines(width).items()}
    exact = found[None]
    apart = {bits: float(np.sqrt(np.mean((found[bits] - exact) ** 2)) / exact.std()) for bits in (8, 4)}
    # 8 bits leave steps of 1/256 of a group's range, 4 bits of 1/16: sixteen times as far.
    assert 0.001 < apart[8] < 0.03
    assert 8 < apart[4] / apart[8] < 32


def test_the_matrices_shrink_and_nothing_else_is_touched() -> None:
    sizes = {}
    for bits, engine in engines(64).items():
        parameters = dict(tree_flatten(engine.decoder.parameters()))
        sizes[bits] = sum(each.nbytes for name, each in parameters.items() if "layers" in name and "norm" not in name)
        assert parameters["embeddings"].dtype == mx.float32
        assert parameters["projection.weight"].shape == (64, 20)
        assert parameters["layers.0.self_norm.weight"].dtype == mx.float32
    # A scale and an offset for each group of 64 come on top.
    assert sizes[8] / sizes[None] == pytest.approx((8 + 1) / 32)
    assert sizes[4] / sizes[None] == pytest.approx((4 + 1) / 32)


def test_a_width_that_has_no_whole_groups_is_refused() -> None:
    with pytest.raises(BackendError, match="40 wide cannot be quantised"):
        engines(40)


@pytest.mark.parametrize("backend", ["mlx", "torch"])
@pytest.mark.parametrize("wanted", [["--quantize", "8"], ["--dtype", "int8"]])
def test_the_command_line_quantises_and_its_record_says_so(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, wanted: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["generate", "bright bell", "--seconds", "0.3", "--seed", "1", "--model", str(tiny), "-o", "a.wav"]
    for arguments in ([*words, "--backend", backend, *wanted], ["generate", "--from", "a.json", "-o", "b.wav"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert not ended.value.code
    record = json.loads(Path("b.json").read_text())
    assert (record["backend"], record["dtype"], record["quantize"]) == (backend, "float32", 8)
    assert np.array_equal(soundfile.read("a.wav")[0], soundfile.read("b.wav")[0])


def test_torch_does_not_quantise_to_4_bits(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["generate", "bells", "--model", str(tiny), "--backend", "torch", "--quantize", "4"])
    assert ended.value.code == 3
    assert "cannot quantise to 4 bits" in capsys.readouterr().err
