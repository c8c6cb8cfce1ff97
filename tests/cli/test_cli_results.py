"""What is asked of a result, in `generate` and `decode`: rate, fades, loudness, format, and the record of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hemiola.audio.loudness import integrated_lufs
from hemiola.generation import MusicGen

Run = Callable[..., Any]


@pytest.fixture
def make(hemiola: Run, tiny: Path) -> Run:
    """`hemiola generate` with the tiny model, half a second long unless it is said otherwise."""

    def run(*words: object) -> Any:
        length = () if "--seconds" in words else ("--seconds", "0.5")
        return hemiola("generate", "bell", "--seed", 7, "--model", tiny, "--device", "cpu", *length, *words)

    return run


def read(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.T, rate


@pytest.mark.parametrize("seconds", ["0.5", "1/3", "0.7001"])
@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_the_duration_is_exact_at_any_rate(make: Run, tmp_path: Path, seconds: str, rate: int) -> None:
    ran = make("--seconds", seconds, "--sample-rate", rate, "-o", "out.wav")
    expected = {"0.5": rate // 2, "1/3": round(rate / 3), "0.7001": round(rate * 0.7001)}[seconds]
    assert f"  {expected:,} samples, " in ran.err
    samples, found = read(tmp_path / "out.wav")
    assert (samples.shape, found) == ((1, expected), rate)
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["samples"], record["sample_rate"], record["finish"]) == (expected, rate, {"sample_rate": rate})


def test_loudness_is_reached_and_said(make: Run, tmp_path: Path) -> None:
    ran = make("--loudness", "-35", "--fade-in", "0.1", "--fade-out", "1/5", "-o", "out.wav")
    assert "  -35.0 LUFS\n" in ran.err
    samples, rate = read(tmp_path / "out.wav")
    assert integrated_lufs(samples, rate) == pytest.approx(-35, abs=0.01)
    assert np.abs(samples[:, [0, -1]]).max() < 1e-4
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["finish"] == {"fade_in": "0.1", "fade_out": "1/5", "loudness": -35.0}


def test_loudness_that_would_clip_is_limited_and_said(make: Run, tmp_path: Path) -> None:
    ran = make("--loudness", "-0.1", "-o", "out.wav")
    assert "LUFS, not -0.1: louder would have clipped" in ran.err
    samples, _ = read(tmp_path / "out.wav")
    assert 0.999 < np.abs(samples).max() < 1


def test_the_record_makes_the_same_file_again(make: Run, hemiola: Run, tmp_path: Path) -> None:
    settings = ("--loudness", "-30", "--fade-in", "0.1", "--fade-out", "1/5", "--sample-rate", 44100)
    for end in ("wav", "flac", "mp3"):
        make(*settings, "-o", f"first.{end}", "--force")
        ran = hemiola("generate", "--from", "first.json", "-o", f"again.{end}", "--force")
        assert (ran.code, ran.out) == (0, f"again.{end}\n")
        assert (tmp_path / f"again.{end}").read_bytes() == (tmp_path / f"first.{end}").read_bytes()
        records = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("first", "again")]
        assert {**records[0], "audio": ""} == {**records[1], "audio": ""}
    # Each OGG has a serial number of its own; the sound in it is the same.
    make(*settings, "-o", "first.ogg", "--force")
    hemiola("generate", "--from", "first.json", "-o", "again.ogg", "--force")
    np.testing.assert_array_equal(read(tmp_path / "first.ogg")[0], read(tmp_path / "again.ogg")[0])


def test_without_o_the_record_gives_the_format_too(make: Run, hemiola: Run, tmp_path: Path) -> None:
    make("-o", "first.flac")
    assert hemiola("generate", "--from", "first.json").out == "bell-7.flac\n"
    assert (tmp_path / "bell-7.flac").read_bytes() == (tmp_path / "first.flac").read_bytes()
    assert hemiola("generate", "--from", "first.json", "--format", "mp3", "-o", "other").out == "other.mp3\n"


def test_options_change_what_is_recorded(make: Run, hemiola: Run, tmp_path: Path) -> None:
    make("-o", "plain.wav")
    make("--loudness", "-30", "--fade-in", "0.1", "-o", "first.wav")
    again = ("generate", "--from", "first.json", "--loudness", "none", "--fade-in", 0, "-o", "second.wav")
    assert hemiola(*again).code == 0
    assert (tmp_path / "second.wav").read_bytes() == (tmp_path / "plain.wav").read_bytes()
    assert "finish" not in json.loads((tmp_path / "plain.json").read_text())


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--format", "flac"], "bell-7.flac"),
        (["--format", "OGG", "-o", "song"], "song.ogg"),
        (["--format", "mp3", "-o", "song.MP3"], "song.MP3"),
        (["--format", "flac", "-o", "."], "bell-7.flac"),
    ],
)
def test_the_format_names_the_file(make: Run, tmp_path: Path, words: list[str], name: str) -> None:
    assert make(*words).out == f"{name}\n"
    assert soundfile.info(tmp_path / name).format == name.rpartition(".")[2].upper()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "aiff"], "unknown format 'aiff': one of wav, flac, ogg, mp3"),
        (["--format", "flac", "-o", "x.wav"], "do not agree"),
        (["--format", "flac", "-o", "x.v2"], "do not agree"),
        (["--loudness", "loud"], "loudness must be a number of LUFS, or none"),
        (["--loudness", "3"], "loudness must be"),
        (["--loudness", "nan"], "loudness must be"),
        (["--loudness", "-14", "--seconds", "0.3"], "not defined below 0.4 s"),
        (["--fade-in", "0.4", "--fade-out", "0.2"], "the fades take 0.6 s, the piece has 0.5 s"),
        (["--fade-in", "-1"], "fade_in: a duration cannot be negative"),
        (["--fade-out", "abc"], "fade_out: not a duration"),
        (["--sample-rate", "100"], "sample_rate must be"),
        (["--sample-rate", "96000", "--format", "mp3"], "MP3 cannot hold 96000 Hz"),
        (["--sample-rate", "220000", "-o", "x.ogg"], "OGG cannot hold 220000 Hz"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_work(
    make: Run, tmp_path: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MusicGen, "from_pretrained", None)  # would be an error, were it called
    ran = make(*words)
    assert message in ran.error
    assert ran.code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("finish", [3, {"reverb": 1}, {"loudness": "x"}, {"fade_in": []}, {"sample_rate": 1}])
def test_a_record_with_a_bad_finish_is_refused(make: Run, hemiola: Run, tmp_path: Path, finish: object) -> None:
    make("-o", "first.wav")
    record = json.loads((tmp_path / "first.json").read_text())
    (tmp_path / "bad.json").write_text(json.dumps({**record, "finish": finish}))
    ran = hemiola("generate", "--from", "bad.json", "-o", "again.wav")
    assert ran.code == 2
    assert ran.error
    assert not (tmp_path / "again.wav").exists()


def test_decode_finishes_as_well(hemiola: Run, tmp_path: Path, tiny: Path) -> None:
    sound = 0.3 * np.random.default_rng(0).standard_normal(20_001).astype(np.float32)
    soundfile.write(tmp_path / "in.wav", sound, 32000, subtype="FLOAT")
    hemiola("encode", "in.wav", "--model", tiny)
    words = ("--sample-rate", 48000, "--fade-out", "0.1", "--loudness", "-30", "--format", "flac")
    ran = hemiola("decode", "in.safetensors", *words)
    assert ran.out == "in.flac\n"
    assert "-30.0 LUFS" in ran.err
    samples, rate = read(tmp_path / "in.flac")
    assert (samples.shape, rate) == ((1, 30_002), 48000)
    assert integrated_lufs(samples, rate) == pytest.approx(-30, abs=0.02)
    refused = hemiola("decode", "in.safetensors", "-o", "b.wav", "--fade-in", 2)
    assert "the fades take 2 s" in refused.error
