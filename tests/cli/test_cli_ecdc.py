"""`hemiola encode -o x.ecdc` and `decode x.ecdc`: the suffix chooses, codes come back equal, and damage is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.numpy import load_file, save_file

from hemiola.codec import ecdc
from hemiola.codec.config import ENCODEC_24KHZ
from hemiola.codec.encodec_torch import Encodec, to_checkpoint

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec in the layout of Meta's at 24 kHz."""
    folder = tmp_path_factory.mktemp("codec")
    config = replace(ENCODEC_24KHZ, num_filters=2, hidden_size=8, num_lstm_layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        tensors = to_checkpoint(Encodec(config))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    save_file({name: tensor.detach().numpy() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    samples = 0.3 * np.random.default_rng(0).standard_normal(24_001).astype(np.float32)
    soundfile.write(tmp_path / "in.wav", samples, 24000, subtype="FLOAT")
    return tmp_path / "in.wav"


def test_the_suffix_chooses_and_codes_come_back_equal(hemiola: Run, tmp_path: Path, codec: Path, sound: Path) -> None:
    settings = ("--model", codec, "--bandwidth", 6)
    assert hemiola("encode", sound, "-o", "x.ecdc", *settings).out == "x.ecdc\n"
    assert hemiola("encode", sound, "-o", "x.safetensors", *settings).code == 0
    chunk = load_file(tmp_path / "x.safetensors")["codes.0"]
    np.testing.assert_array_equal(ecdc.load(tmp_path / "x.ecdc").encoded.chunks[0][0], chunk)
    assert chunk.shape == (8, 76)
    assert hemiola("decode", "x.ecdc", "--model", codec, "-o", "a.wav").out == "a.wav\n"
    assert hemiola("decode", "x.safetensors", "-o", "b.wav").code == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert soundfile.info(tmp_path / "a.wav").frames == 24_001


def test_bandwidth_size_and_speed_are_said(hemiola: Run, tmp_path: Path, codec: Path, sound: Path) -> None:
    ran = hemiola("encode", sound, "-o", "x.ecdc", "--model", codec, "--bandwidth", 3)
    size = (tmp_path / "x.ecdc").stat().st_size
    assert size == 9 + len('{"m": "encodec_24khz", "al": 24001, "nc": 4, "lm": false}') + 76 * 4 * 10 // 8
    for text in (ran.err, hemiola("decode", "x.ecdc", "--model", codec).err):
        assert "76 frames of 4 codebooks, 1 s" in text
        assert f"  3 kbps, {size} bytes, " in text
        assert "x real time" in text


def test_a_file_that_cannot_name_its_codec_says_so(hemiola: Run, codec: Path, sound: Path) -> None:
    ran = hemiola("encode", sound, "-o", "x.ecdc", "--model", codec)
    assert f"note: the file can only name facebook/encodec_24khz: decode it with --model {codec}" in ran.err


@pytest.mark.parametrize("words", [["encode", "in.wav", "-o", "x.ecdc"], ["decode", "given.ecdc", "-o", "x.wav"]])
def test_metas_codec_is_the_default(
    hemiola: Run, tmp_path: Path, codec: Path, sound: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    asked = []

    def found(name: str, allow_pickle: bool = False) -> Any:
        asked.append(name)
        return hub.Checkpoint(name, "", codec)

    from hemiola.cli import checkpoints
    from hemiola.weights import hub

    assert hemiola("encode", "in.wav", "-o", "given.ecdc", "--model", codec).code == 0
    monkeypatch.setattr(checkpoints, "found", found)
    ran = hemiola(*words)
    assert (ran.code, asked) == (0, ["facebook/encodec_24khz"])
    assert "note" not in ran.err


def test_a_codec_of_another_layout_is_refused(hemiola: Run, tmp_path: Path, tiny: Path, sound: Path) -> None:
    ran = hemiola("encode", sound, "-o", "x.ecdc", "--model", tiny)
    assert "holds codes of encodec_24khz or encodec_48khz" in ran.error
    assert ran.code == 2
    assert not (tmp_path / "x.ecdc").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:100], "x.ecdc is cut short"),
        (lambda content: content + b"\0", "x.ecdc is damaged"),
        (lambda content: b"RIFF" + content[4:], "x.ecdc is not an .ecdc file"),
        (lambda content: content.replace(b"false", b"true "), "without --lm"),
        (lambda content: b"", "x.ecdc is not an .ecdc file"),
    ],
)
def test_damage_is_one_line(
    hemiola: Run, tmp_path: Path, codec: Path, sound: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    hemiola("encode", sound, "-o", "x.ecdc", "--model", codec)
    content = (tmp_path / "x.ecdc").read_bytes()
    (tmp_path / "x.ecdc").write_bytes(damage(content))
    ran = hemiola("decode", "x.ecdc", "--model", codec, "-o", "back.wav")
    assert message in ran.error
    assert ran.code == 2
    assert not (tmp_path / "back.wav").exists()
