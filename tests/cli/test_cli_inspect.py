"""`hemiola inspect`: the picture it writes, the recipe it tells, and what it refuses."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

Run = Callable[..., Any]


def write(path: Path, seconds: float = 1, channels: int = 1, rate: int = 8000) -> None:
    times = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, np.stack([0.5 * np.sin(2 * np.pi * 440 * times)] * channels, axis=1), rate)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_picture_and_the_facts(hemiola: Run, tmp_path: Path) -> None:
    write(tmp_path / "out.wav")
    ran = hemiola("inspect", "out.wav")
    assert (ran.code, ran.out) == (0, "out.png\n")
    assert "length  1 s, 8,000 samples" in ran.err
    assert "peak -6.0 dBFS, RMS -9.0 dBFS" in ran.err
    shown = pixels(tmp_path / "out.png")
    assert shown.shape == (960, 1440, 3)
    # The brightest of magma and of viridis, where the tone is; their darkest where it is not.
    for colour in ((252, 253, 191), (253, 231, 36), (0, 0, 3), (68, 1, 84)):
        assert (np.abs(shown.astype(int) - colour).max(axis=2) <= 2).sum() > 2000, colour


def test_the_recipe_is_told(hemiola: Run, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--seconds", "0.5", "--seed", 7, "--model", tiny, "--fade-out", "0.1")
    hemiola("generate", "a very slow piano that plays in the dark", *words, "-o", "out.wav")
    ran = hemiola("inspect", "out.wav")
    assert (ran.code, ran.out) == (0, "out.png\n")
    for line in ("prompt       a very slow piano that plays in the dark", "seed         7", "fade_out 0.1"):
        assert f"  {line}" in ran.err
    assert "again        hemiola generate --from out.json" in ran.err
    monkeypatch.setenv("COLUMNS", "30")
    narrow = hemiola("inspect", "out.wav", "-o", "narrow.png").err.splitlines()
    told = [line for line in narrow if str(tiny)[:10] not in line]
    assert max(map(len, told)) <= 30
    assert any(line.endswith("a very slow") for line in told)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "no record that hemiola generate wrote"),
        ("[", "no record that hemiola generate wrote"),
        (
            {"prompt": "x", "seconds": 1, "seed": 1, "model": "sketch", "codes_sha256": "", "audio": "other.wav"},
            "is the record of other.wav",
        ),
    ],
)
def test_a_json_that_is_of_something_else_is_no_recipe(
    hemiola: Run, tmp_path: Path, content: Any, message: str
) -> None:
    write(tmp_path / "out.wav")
    (tmp_path / "out.json").write_text(content if isinstance(content, str) else json.dumps(content))
    ran = hemiola("inspect", "out.wav")
    assert ran.code == 0
    assert message in ran.err
    assert "again" not in ran.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nosuch.wav"], 2, "nosuch.wav does not exist"),
        (["text.wav"], 2, "not audio that can be read"),
        (["out.wav", "-o", "x.jpg"], 2, "end it in .png"),
        (["out.wav", "-o", "taken.png"], 2, "--force"),
        (["out.wav", "-o", "no/such.png"], 2, "does not exist"),
        ([], 2, "argument"),
    ],
)
def test_bad_input_is_one_line(hemiola: Run, tmp_path: Path, words: list[str], code: int, message: str) -> None:
    write(tmp_path / "out.wav")
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "taken.png").touch()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ran = hemiola("inspect", *words)
    assert message in ran.error
    assert ran.code == code
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_without_matplotlib_the_extra_is_named(hemiola: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    write(tmp_path / "out.wav")
    monkeypatch.setattr(builtins, "__import__", without)
    ran = hemiola("inspect", "out.wav")
    assert ran.error == "drawing needs matplotlib: pip install 'hemiola[inspect]'"
    assert ran.code == 3
