"""Sound files against scipy's WAV reader, the standard library's `wave`, and bytes cut and bent by hand."""

from __future__ import annotations

import os
import signal
import stat
import struct
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
import soundfile

from hemiola.audio import io, writing
from hemiola.errors import AudioError, OutputError

RATE = 24000


def tone(seconds: float = 0.5, channels: int = 2, height: float = 0.5) -> np.ndarray:
    times = np.arange(round(seconds * RATE)) / RATE
    return np.stack([height * np.sin(2 * np.pi * 330 * (k + 1) * times) for k in range(channels)]).astype(np.float32)


@pytest.mark.filterwarnings("ignore::scipy.io.wavfile.WavFileWarning")
def test_float_wav_survives_bit_for_bit_past_full_scale(tmp_path: Path) -> None:
    loud = tone(height=3.0)
    saved = io.write(tmp_path / "a.wav", loud, RATE)
    assert saved == io.Saved(tmp_path / "a.wav", "float", 0.0)
    rate, heard = scipy.io.wavfile.read(tmp_path / "a.wav")
    assert rate == RATE
    np.testing.assert_array_equal(heard.T, loud)
    np.testing.assert_array_equal(io.read(tmp_path / "a.wav")[0], loud)


@pytest.mark.parametrize("encoding,bits", [("pcm16", 16), ("pcm24", 24), ("pcm32", 32)])
def test_integer_wav_is_rounded_to_the_nearest_step(tmp_path: Path, encoding: str, bits: int) -> None:
    sound = tone()
    io.write(tmp_path / "a.wav", sound, RATE, encoding=encoding)
    _, heard = scipy.io.wavfile.read(tmp_path / "a.wav")  # 24 bits come left-aligned in int32
    assert heard.dtype == (np.int16 if bits == 16 else np.int32)
    steps = heard.T.astype(np.float64) / 2 ** (15 if bits == 16 else 31)
    assert np.abs(steps - sound).max() <= 0.5 / 2 ** (bits - 1)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_every_16_bit_value_survives_reading_and_writing(tmp_path: Path, name: str) -> None:
    every = np.arange(-32768, 32768, dtype=np.int16)
    soundfile.write(tmp_path / name, every, RATE, subtype="PCM_16")
    samples, rate = io.read(tmp_path / name)
    io.write(tmp_path / name, samples, rate, encoding="pcm16", force=True)
    np.testing.assert_array_equal(soundfile.read(tmp_path / name, dtype="int16")[0], every)


def test_8_bit_wav_is_read(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(bytes([0, 64, 128, 192, 255]))
    samples, rate = io.read(tmp_path / "a.wav")
    assert rate == 8000
    np.testing.assert_array_equal(samples, [[-1.0, -0.5, 0.0, 0.5, 127 / 128]])


@pytest.mark.parametrize("name,error", [("a.flac", 2**-24), ("a.ogg", 0.05), ("a.mp3", 0.05)])
def test_other_formats_come_back_as_long_and_alike(tmp_path: Path, name: str, error: float) -> None:
    sound = tone(0.7)
    io.write(tmp_path / name, sound, RATE)
    heard, rate = io.read(tmp_path / name)
    assert rate == RATE
    assert heard.shape == sound.shape
    assert heard.dtype == np.float32
    assert heard.flags.c_contiguous
    assert np.abs(heard - sound).max() <= error


@pytest.mark.parametrize("name,encoding", [("a.wav", "pcm16"), ("a.wav", "pcm32"), ("a.flac", None), ("a.mp3", None)])
def test_too_loud_is_turned_down_and_said(tmp_path: Path, name: str, encoding: str | None) -> None:
    saved = io.write(tmp_path / name, tone(height=2.0), RATE, encoding=encoding)
    assert saved.gain_db == pytest.approx(-6.0206, abs=0.01)
    heard, _ = io.read(tmp_path / name)
    # Turned down, not clipped: the shape is still a sine's, whose peak is the square root of two times its RMS.
    assert np.abs(heard).max() == pytest.approx(1, abs=0.05)
    assert np.sqrt(np.mean(heard**2)) == pytest.approx(np.sqrt(0.5), abs=0.01)


def test_full_scale_is_left_alone(tmp_path: Path) -> None:
    saved = io.write(tmp_path / "a.wav", np.array([[1.0, -1.0, 0.5]], np.float32), RATE, encoding="pcm16")
    assert saved.gain_db == 0
    assert scipy.io.wavfile.read(tmp_path / "a.wav")[1].tolist() == [32767, -32768, 16384]


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_one_sample_is_a_file(tmp_path: Path, name: str) -> None:
    io.write(tmp_path / name, np.full((1, 1), 0.25, np.float32), RATE)
    assert io.read(tmp_path / name)[0].shape == (1, 1)


def test_more_than_one_block(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, (2, 3 * (1 << 16) + 77)).astype(np.float32)
    io.write(tmp_path / "a.wav", sound, RATE)
    np.testing.assert_array_equal(io.read(tmp_path / "a.wav")[0], sound)


def test_blocks_of_an_mp3_join_without_a_seam(tmp_path: Path) -> None:
    io.write(tmp_path / "a.mp3", np.random.default_rng(0).uniform(-0.5, 0.5, (1, 8 * RATE)).astype(np.float32), RATE)
    whole, _ = soundfile.read(tmp_path / "a.mp3", dtype="float32")
    np.testing.assert_allclose(io.read(tmp_path / "a.mp3")[0][0], whole, atol=1e-6)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
def test_the_same_sound_is_the_same_bytes(tmp_path: Path, name: str) -> None:
    io.write(tmp_path / name, tone(), RATE)
    first = (tmp_path / name).read_bytes()
    time.sleep(1.1)  # what a WAV says of its time is in whole seconds
    io.write(tmp_path / name, tone(), RATE, force=True)
    assert (tmp_path / name).read_bytes() == first


# ---- files that cannot be read: one line, the path, and what to do


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        io.read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_what_is_not_there_or_not_a_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.wav")
    assert "not a file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    assert "not a file" in refusal(tmp_path / "pipe.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.ogg", "a.raw", "a", "a.m4a"])
def test_what_is_not_audio(tmp_path: Path, name: str) -> None:
    assert "empty" in refusal(write_bytes(tmp_path / name, b""))
    assert "not audio" in refusal(write_bytes(tmp_path / name, b"hello, this is a text file\n" * 40))
    assert "not audio" in refusal(write_bytes(tmp_path / name, bytes(5000)))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
@pytest.mark.parametrize("part", [0.5, 0.2])
def test_a_file_cut_short_is_reported(tmp_path: Path, name: str, part: float, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / name
    io.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (1, 5 * RATE)).astype(np.float32), RATE)
    content = path.read_bytes()
    assert "cut short" in refusal(write_bytes(path, content[: int(len(content) * part)]))


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF, 0xFFFFFFFF - 36])
def test_a_wav_written_as_a_stream_is_whole(tmp_path: Path, size: int) -> None:
    sound = tone()
    io.write(tmp_path / "a.wav", sound, RATE, encoding="pcm16")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    write_bytes(tmp_path / "a.wav", bytes(content))
    if size:
        assert io.read(tmp_path / "a.wav")[0].shape == sound.shape
    else:
        assert "no samples" in refusal(tmp_path / "a.wav")


def test_a_flac_written_as_a_stream_is_refused(tmp_path: Path) -> None:
    io.write(tmp_path / "a.flac", tone(4), RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    # STREAMINFO starts at byte 8; the 36 bits of the length end at its 18th byte.
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    assert "convert it" in refusal(write_bytes(tmp_path / "a.flac", bytes(content)))


def test_no_samples_is_said(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((0, 1), np.float32), RATE)
    assert "no samples" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_said(tmp_path: Path, value: float) -> None:
    scipy.io.wavfile.write(tmp_path / "a.wav", RATE, np.array([0, value, 0], np.float32))
    assert "not finite" in refusal(tmp_path / "a.wav")


def test_longer_than_a_day_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    io.write(tmp_path / "a.flac", tone(), RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[22:26] = b"\xff" * 4
    assert "longer than a day" in refusal(write_bytes(tmp_path / "a.flac", bytes(content)))


def test_larger_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io.write(tmp_path / "a.wav", tone(), RATE)
    monkeypatch.setattr(io, "_memory_bytes", lambda: 100_000)
    assert "memory" in refusal(tmp_path / "a.wav")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    io.write(tmp_path / "a.wav", tone(), RATE)
    (tmp_path / "a.wav").chmod(0)
    assert "permissions" in refusal(tmp_path / "a.wav")


def test_names_that_are_hard_to_spell(tmp_path: Path) -> None:
    for name in ("größe ü 音.wav", " a'b\"c.WAV", os.fsdecode(b"latin-\xe9.wav")):
        io.write(tmp_path / name, tone(), RATE)
        assert io.read(tmp_path / name)[0].shape == (2, RATE // 2)
    with pytest.raises(AudioError):
        io.read(tmp_path / ("a" * 300 + ".wav"))
    with pytest.raises(AudioError):
        io.read("a\0b.wav")


# ---- files that cannot be written: nothing is left, nothing is lost


def test_an_existing_file_is_only_replaced_when_told(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a.wav", b"precious")
    with pytest.raises(OutputError, match=r"a\.wav exists: pass --force"):
        io.write(path, tone(), RATE)
    assert path.read_bytes() == b"precious"
    io.write(path, tone(), RATE, force=True)
    assert io.read(path)[0].shape == (2, RATE // 2)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "name,message",
    [
        ("none/a.wav", "none does not exist: create it"),
        ("a.txt", "end it in .wav, .flac, .ogg, .mp3"),
        ("a", "end it in"),
        ("folder.wav", "is a folder"),
        ("pipe.wav", "not a regular file"),
        ("a" * 300 + ".wav", "too long"),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match=message):
        io.write(tmp_path / name, tone(), RATE, force=True)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "name,channels,rate,encoding,message",
    [
        ("a.mp3", 1, 44101, None, r"\(1 channels at 44101 Hz as MP3\): .*sample rates"),
        ("a.mp3", 3, 24000, None, "save as .wav"),
        ("a.flac", 9, 24000, None, "save as .wav"),
        ("a.flac", 1, 24000, "float", "FLAC cannot hold encoding 'float': one of pcm24, pcm16"),
        ("a.ogg", 1, 300_000, None, "OGG cannot hold 300000 Hz"),
        ("a.wav", 1, 24000, "pcm8", "WAV cannot hold encoding 'pcm8'"),
    ],
)
def test_what_a_format_cannot_hold(
    tmp_path: Path, name: str, channels: int, rate: int, encoding: str | None, message: str
) -> None:
    with pytest.raises(OutputError, match=message):
        io.write(tmp_path / name, np.zeros((channels, 100), np.float32), rate, encoding=encoding)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bytes(tmp_path / "a.wav", b"precious")

    def fail(*_: object) -> None:
        assert len(list(tmp_path.iterdir())) == 2
        raise failure

    monkeypatch.setattr(io, "_confirm", fail)
    with pytest.raises((KeyboardInterrupt, MemoryError, OutputError)):
        io.write(path, tone(), RATE, force=True)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"precious"]


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_a_full_disk_is_one_line_and_no_file(tmp_path: Path, name: str) -> None:
    """A limit on the size of a file stops the write half-way, as a full disk does."""
    script = f"""
import resource, numpy as np
from hemiola.audio import io
from hemiola.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 200000)).astype(np.float32)
try:
    io.write({str(tmp_path / name)!r}, noise, 24000)
except OutputError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert str(tmp_path / name) in ran.stdout
    assert "disk" in ran.stdout
    assert ran.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    script = f"""
import numpy as np
from hemiola.audio import io
io.write({str(tmp_path / "a.mp3")!r}, np.random.default_rng(0).uniform(-0.5, 0.5, (2, 1 << 23)), 48000)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    waited_until = time.monotonic() + 60
    while not any(tmp_path.iterdir()) and time.monotonic() < waited_until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    io.write(tmp_path / "a.wav", tone(), RATE)
    other = write_bytes(tmp_path / "b", b"")
    assert stat.S_IMODE((tmp_path / "a.wav").stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_a_wav_past_4_gib_is_refused(tmp_path: Path) -> None:
    endless = np.broadcast_to(np.zeros((1, 1), np.float32), (64, 1 << 24))
    with pytest.raises(OutputError, match="4 GiB"):
        io._refuse_size(tmp_path / "a.wav", endless.size * 4, RATE)


def test_replacing_serves_any_kind_of_file(tmp_path: Path) -> None:
    with writing.replacing(tmp_path / "a.npz") as temporary:
        temporary.write_text("done")
    assert (tmp_path / "a.npz").read_text() == "done"
    with pytest.raises(ZeroDivisionError), writing.replacing(tmp_path / "b.npz") as temporary:
        temporary.write_text("half")
        1 / 0
    assert [each.name for each in tmp_path.iterdir()] == ["a.npz"]


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    """safetensors gives a file to its owner alone, and a checkpoint is for whoever shares the folder."""
    (tmp_path / "plain").touch()
    with writing.replacing(tmp_path / "closed") as partial:
        partial.touch(0o600)
    assert (tmp_path / "closed").stat().st_mode == (tmp_path / "plain").stat().st_mode
