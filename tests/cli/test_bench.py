"""`hemiola bench`: a report on stdout or in a file, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hemiola.cli import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    return int(ended.value.code or 0)


def test_a_training_step_is_measured_on_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    assert run("train", "--batch", "1", "--frames", "4", "--rounds", "1", "-o", str(report)) == 0
    found = json.loads(report.read_text())
    assert set(found["rows"]) == {"hemiola", "transformers"}
    assert found["times_as_fast"]["hemiola"]["transformers"] > 0
    assert "seconds per step" in capsys.readouterr().err
    assert run("train", "--batch", "1", "--frames", "4", "--rounds", "1", "-o", str(report)) == 2


def test_a_codec_is_measured_both_ways(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert run("codec", "--size", "24khz", "--seconds", "0.2", "--rounds", "1", "-o", str(report)) == 0
    found = json.loads(report.read_text())
    assert set(found["rows"]) == {f"{who} {way}" for who in ("hemiola", "transformers") for way in ("encode", "decode")}
    # Encoding is compared with encoding only.
    assert set(found["times_as_fast"]["hemiola encode"]) == {"transformers encode"}
    assert found["apart"]["audio_share_of_peak"] < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["codec", "--size", "16khz"], "unknown size '16khz': one of 24khz, 32khz, 48khz"),
        (["codec", "--seconds", "-1"], "--seconds: "),
        (["codec", "--seconds", "0"], "--seconds 0 is no sample at 24khz: ask for more"),
        (["generate", "--size", "huge"], "unknown size 'huge': one of sketch, small, medium, large"),
        (["generate", "--size", "sketch", "--dtype", "int2"], "unknown dtype 'int2'"),
        (["generate", "--size", "sketch", "--against", "int8"], "unknown dtype 'int8'"),
        (["train", "--dtype", "float16"], "unknown dtype 'float16': one of float32, bfloat16"),
    ],
)
def test_what_is_not_there_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
