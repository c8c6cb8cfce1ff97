"""`hemiola generate --stream`, `-o -` and `--play`: what comes out is what comes out without them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from hemiola.audio import io
from hemiola.cli import main
from hemiola.errors import OutputError
from hemiola.generation import MusicGen
from hemiola.request import Request

Run = Callable[..., Any]


@pytest.fixture
def words(tiny: Path) -> list[str]:
    settings = {"--seconds": "0.3501", "--seed": "7", "--model": tiny, "--device": "cpu", "--backend": "torch"}
    return ["generate", "slow piano", *(str(word) for pair in settings.items() for word in pair)]


@pytest.fixture(scope="module")
def expected(tiny: Path) -> np.ndarray:
    model = MusicGen.from_pretrained(tiny, backend="torch", device="cpu")
    return model.generate([Request("slow piano", "0.3501", 7)])[0].audio.samples


def test_a_streamed_file_is_the_file(hemiola: Run, words: list[str], tmp_path: Path, expected: np.ndarray) -> None:
    ran = hemiola(*words, "--stream", "--block", "0.06", "-o", "out.wav")
    assert (ran.code, ran.out) == (0, "out.wav\n")
    assert "11,203 samples" in ran.err
    assert "the first after" in ran.err
    samples, rate = soundfile.read(tmp_path / "out.wav", dtype="float32", always_2d=True)
    assert rate == 32000
    np.testing.assert_allclose(samples.T, expected, atol=1e-5 * np.abs(expected).max())
    hemiola(*words, "-o", "whole.wav")
    records = [json.loads((tmp_path / name).read_text()) for name in ("out.json", "whole.json")]
    assert {**records[0], "audio": "whole.wav"} == records[1]
    assert {path.suffix for path in tmp_path.iterdir()} == {".wav", ".json"}


def test_a_record_is_streamed_again(hemiola: Run, words: list[str], tmp_path: Path) -> None:
    hemiola(*words, "-o", "out.wav")
    ran = hemiola("generate", "--from", "out.json", "--stream", "-o", "again.wav")
    assert ran.code == 0
    record = json.loads((tmp_path / "out.json").read_text())
    (tmp_path / "out.json").write_text(json.dumps({**record, "codes_sha256": "0"}))
    assert "does not come out the same" in hemiola("generate", "--from", "out.json", "--stream", "-o", "new.wav").error
    assert not (tmp_path / "new.wav").exists()
    assert not (tmp_path / "new.json").exists()


def test_raw_audio_goes_to_stdout_and_nothing_else(
    words: list[str], tmp_path: Path, expected: np.ndarray, capfdbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main([*words, "-o", "-"])
    assert not end.value.code
    out, err = capfdbinary.readouterr()
    np.testing.assert_allclose(np.frombuffer(out, "<f4"), expected[0], atol=1e-5 * np.abs(expected).max())
    assert b"raw PCM to stdout: 32000 Hz, 1 channel, 32-bit float, little-endian" in err
    assert list(tmp_path.iterdir()) == []


def test_what_is_played_is_what_is_written(
    hemiola: Run, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[np.ndarray] = []

    class Device:
        def __init__(self, rate: int, *, channels: int, dtype: str) -> None:
            assert (rate, channels, dtype) == (32000, 1, "float32")

        def __enter__(self) -> Device:
            return self

        def __exit__(self, *_: object) -> None:
            heard.append(np.zeros((0, 1), np.float32))

        def write(self, block: np.ndarray) -> None:
            heard.append(block)

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(OutputStream=Device, PortAudioError=OSError))
    assert hemiola(*words, "--play", "-o", "out.wav").code == 0
    samples = soundfile.read(tmp_path / "out.wav", dtype="float32", always_2d=True)[0]
    assert np.array_equal(np.concatenate(heard), samples)
    assert heard[-1].size == 0, "the device is closed at the end, when all is heard"


def test_a_machine_that_cannot_play_says_what_is_missing(
    hemiola: Run, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert hemiola(*words, "--play").error == "--play needs a library that is not there: pip install 'hemiola[play]'"

    def no_device(*_: object, **__: object) -> None:
        raise OSError("no default output device")

    silent = SimpleNamespace(OutputStream=no_device, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", silent)
    assert "no default output device" in hemiola(*words, "--play", "-o", "out.wav").error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["-o", "out.flac", "--stream"], "name a .wav"),
        (["-o", "-", "--count", "2"], "one piece goes to stdout, not 2"),
        (["--stream", "--block", "soon"], "--block: not a duration"),
        (["--stream", "--block", "0"], "--block must be above 0 s, not 0"),
        (["--stream", "--fade-out", "0.1"], "leave out --sample-rate, --fade-in"),
        (["--stream", "--side-by-side", "2"], "made one after another: leave out --side-by-side"),
    ],
)
def test_what_cannot_be_streamed_is_refused_at_once(
    hemiola: Run, words: list[str], tmp_path: Path, more: list[str], complaint: str
) -> None:
    assert complaint in hemiola(*words, *more).error
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_grows_is_the_file_that_is_written(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32)
    io.write(tmp_path / "whole.wav", samples, 32000)
    with io.growing(tmp_path / "grown.wav", 32000, 2) as append:
        for start in range(0, 1000, 300):
            append(samples[:, start : start + 300])
            assert not (tmp_path / "grown.wav").exists()
    assert (tmp_path / "grown.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()
    with pytest.raises(KeyboardInterrupt), io.growing(tmp_path / "cut.wav", 32000, 2) as append:
        append(samples)
        raise KeyboardInterrupt
    with pytest.raises(OutputError, match="name a"), io.growing(tmp_path / "cut.ogg", 32000, 2):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"whole.wav", "grown.wav"}
