"""`hemiola encode` and `decode`: sound to codes in a file and back, and files that are not what they should be."""

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
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from hemiola.codec.config import ENCODEC_48KHZ
from hemiola.codec.encodec_torch import Encodec, to_checkpoint
from hemiola.codec.model import EncodecModel

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec as at 48 kHz: stereo, normalised, in chunks; two codebooks at the lower bandwidth."""
    folder = tmp_path_factory.mktemp("codec")
    config = replace(ENCODEC_48KHZ, num_filters=2, hidden_size=8, codebook_size=16, target_bandwidths=(1.2, 2.4))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        tensors = to_checkpoint(Encodec(config))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    save_file({name: tensor.detach().numpy() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def write(path: Path, samples: int, rate: int = 32000, channels: int = 1) -> np.ndarray:
    sound = 0.3 * np.random.default_rng(samples).standard_normal((samples, channels)).astype(np.float32)
    soundfile.write(path, sound, rate, subtype="FLOAT")
    return sound.T


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 20_001])
def test_there_and_back_is_what_the_codec_says(hemiola: Run, tmp_path: Path, tiny: Path, samples: int) -> None:
    sound = write(tmp_path / "in.wav", samples)
    ran = hemiola("encode", "in.wav", "--model", tiny)
    assert (ran.code, ran.out) == (0, "in.safetensors\n")
    assert hemiola("decode", "in.safetensors", "-o", "back.wav").out == "back.wav\n"
    codec = EncodecModel.from_pretrained(tiny)
    encoded = codec.encode(sound)
    tensors = load_file(tmp_path / "in.safetensors")
    assert list(tensors) == ["codes.0"]
    np.testing.assert_array_equal(tensors["codes.0"], encoded.chunks[0][0])
    assert tensors["codes.0"].dtype == np.int32
    back, rate = soundfile.read(tmp_path / "back.wav", dtype="float32", always_2d=True)
    assert (back.shape, rate) == ((samples, 1), 32000)
    np.testing.assert_array_equal(back.T, codec.decode(encoded))


def test_what_the_codec_does_not_take_is_converted_and_said(hemiola: Run, tmp_path: Path, tiny: Path) -> None:
    write(tmp_path / "in.wav", 4410, rate=44100, channels=2)
    ran = hemiola("encode", "in.wav", "--model", tiny, "-o", "codes.safetensors")
    assert "mixed: 2 channels to 1" in ran.err
    assert "resampled: 44,100 to 32,000 Hz" in ran.err
    hemiola("decode", "codes.safetensors", "-o", "back.wav")
    assert soundfile.info(tmp_path / "back.wav").frames == 3200


@pytest.mark.parametrize("samples", [100, 48_000, 60_001])
def test_chunks_and_scales_survive(hemiola: Run, tmp_path: Path, chunked: Path, samples: int) -> None:
    sound = write(tmp_path / "in.wav", samples, rate=48000, channels=2)
    assert hemiola("encode", "in.wav", "--model", chunked, "--bandwidth", 1.2).code == 0
    assert hemiola("decode", "in.safetensors", "-o", "back.wav").code == 0
    codec = EncodecModel.from_pretrained(chunked)
    encoded = codec.encode(sound, 1.2)
    assert encoded.chunks[0].shape[1] == 2
    back = soundfile.read(tmp_path / "back.wav", dtype="float32")[0].T
    np.testing.assert_allclose(back, codec.decode(encoded), atol=1e-6)


def test_the_file_names_its_codec(hemiola: Run, tmp_path: Path, tiny: Path) -> None:
    write(tmp_path / "in.wav", 1000)
    hemiola("encode", "in.wav", "--model", tiny)
    with safe_open(tmp_path / "in.safetensors", framework="numpy") as file:
        assert file.metadata() == {
            "format": "hemiola-codes-1",
            "model": str(tiny),
            "revision": "",
            "sampling_rate": "32000",
            "channels": "1",
            "length": "1000",
        }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["encode", "nosuch.wav"], 2, "nosuch.wav does not exist"),
        (["encode", "."], 2, "not a file"),
        (["encode", "text.wav"], 2, "not audio that can be read"),
        (["encode", "empty.wav"], 2, "empty"),
        (["encode", "in.wav", "--bandwidth", "7"], 2, "bandwidth"),
        (["encode", "in.wav", "--bandwidth", "nan"], 2, "bandwidth"),
        (["encode", "in.wav", "--model", "nosuch"], 4, "no model and no folder"),
        (["encode", "in.wav", "-o", "taken.safetensors"], 2, "--force"),
        (["encode", "in.wav", "-o", "no/such.safetensors"], 2, "does not exist"),
        (["encode", "in.wav", "--device", "toaster"], 3, "unknown device"),
        (["encode"], 2, "argument"),
        (["decode", "nosuch.safetensors"], 2, "does not exist"),
        (["decode", "."], 2, "."),
        (["decode", "in.wav", "-o", "b.wav"], 2, "not in safetensors"),
        (["decode", "empty.wav", "-o", "b.wav"], 2, "not in safetensors"),
        (["decode", "taken.safetensors"], 2, "holds no codes"),
        (["decode", "taken.safetensors", "-o", "b.xyz"], 2, "does not name a format"),
        (["decode", "taken.safetensors", "-o", "in.wav"], 2, "--force"),
    ],
)
def test_bad_input_is_one_line(
    hemiola: Run, tmp_path: Path, tiny: Path, words: list[str], code: int, message: str
) -> None:
    write(tmp_path / "in.wav", 1000)
    (tmp_path / "text.wav").write_text("not a sound")
    (tmp_path / "empty.wav").touch()
    save_file({"a": np.zeros(3)}, tmp_path / "taken.safetensors", metadata={"format": "pt"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = ["--model", str(tiny)] if words[0] == "encode" and "--model" not in words else []
    ran = hemiola(*words, *model)
    assert message in ran.error
    assert ran.code == code
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "damage",
    [
        "half",
        "garbage",
        *({"drop": name} for name in ("codes.0", "scale.0", "codes.1")),
        *(
            {"facts": {name: value}}
            for name, value in (
                ("length", "x"),
                ("length", "0"),
                ("length", "-1"),
                ("length", "999999"),
                ("length", "9" * 20),
            )
        ),
        *({"facts": {"sampling_rate": value}} for value in ("0", "-1")),
        *({"facts": {name: None}} for name in ("length", "model", "sampling_rate")),
        {"facts": {"model": "nosuch"}},
        {"facts": {"sampling_rate": "32000"}},
        {"codes": 16},
        {"codes": -1},
        {"codes": 0.5},
    ],
    ids=str,
)
def test_damaged_codes_are_one_line(hemiola: Run, tmp_path: Path, chunked: Path, damage: Any) -> None:
    write(tmp_path / "in.wav", 50_000, rate=48000, channels=2)
    assert hemiola("encode", "in.wav", "--model", chunked).code == 0
    path = tmp_path / "in.safetensors"
    if isinstance(damage, str):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if damage == "half" else content[:8] + b"\xff" * 100)
    else:
        with safe_open(path, framework="numpy") as file:
            facts = {**file.metadata(), **damage.get("facts", {})}
        tensors = {name: tensor for name, tensor in load_file(path).items() if name != damage.get("drop")}
        if "codes" in damage:
            tensors["codes.0"] = np.full_like(tensors["codes.0"], damage["codes"], np.array(damage["codes"]).dtype)
        save_file(tensors, path, metadata={name: value for name, value in facts.items() if value is not None})
    ran = hemiola("decode", "in.safetensors", "-o", "back.wav")
    assert ran.error
    assert "unexpected" not in ran.error
    assert not (tmp_path / "back.wav").exists()
