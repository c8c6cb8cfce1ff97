"""The value: what it accepts, what it refuses, and what stays the same."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemiola.audio.audio import Audio
from hemiola.errors import AudioError, HemiolaError, OutputError


def noise(channels: int = 2, length: int = 1001) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (channels, length)).astype(np.float32)


def test_what_it_is() -> None:
    audio = Audio(noise(2, 96_000), 32000)
    assert (audio.channels, audio.length, audio.seconds, audio.sample_rate) == (2, 96_000, 3, 32000)
    assert Audio(noise(1, 1), 44100).seconds == Fraction(1, 44100)


def test_one_channel_may_be_flat() -> None:
    assert Audio(noise()[0], 24000).samples.shape == (1, 1001)


def test_samples_are_float32_in_order_whatever_came() -> None:
    for given in (noise().astype(np.float64), noise().astype(np.float16), np.asfortranarray(noise()), noise()[:, ::2]):
        audio = Audio(given, 24000)
        assert audio.samples.dtype == np.float32
        assert audio.samples.flags.c_contiguous
        np.testing.assert_array_equal(audio.samples, given.astype(np.float32))
    same = noise()
    assert Audio(same, 24000).samples is same


def test_a_rate_may_be_numpys() -> None:
    assert type(Audio(noise(), np.int64(24000)).sample_rate) is int


@pytest.mark.parametrize(
    "samples,says",
    [
        (np.zeros((2, 0), np.float32), r"\[2, 0\] is empty"),
        (np.zeros((0, 5), np.float32), "is empty"),
        (np.zeros(0), "is empty"),
        (np.float32(1.0), r"\[channels, samples\], not \[\]"),
        (np.zeros((1, 2, 3)), r"not \[1, 2, 3\]"),
        (np.array([[0, np.nan]]), "not finite"),
        (np.array([[0, np.inf]]), "not finite"),
        (np.array([[0, 1e300]]), "not finite"),
        (np.zeros((1, 5), np.int16), "not int16"),
        (np.zeros((1, 5), bool), "not bool"),
        (np.zeros((1, 5), complex), "not complex128"),
        (np.array(["a"]), "floating point"),
        (None, "floating point"),
        (np.zeros((96_000, 2)), "96000 channels, at most 64: transposed"),
    ],
)
def test_what_is_not_audio(samples: Any, says: str) -> None:
    with pytest.raises(AudioError, match=says):
        Audio(samples, 24000)


@pytest.mark.parametrize("rate", [0, -1, 24000.0, "24000", None, True, np.nan])
def test_what_is_not_a_rate(rate: Any) -> None:
    with pytest.raises(AudioError, match="sample rate must be a positive whole number"):
        Audio(noise(), rate)
    with pytest.raises(AudioError, match="sample rate must be a positive whole number"):
        Audio(noise(), 24000).resample(rate)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Audio(noise(), 24000).sample_rate = 32000  # type: ignore[misc]  # what mypy would say first


def test_channels() -> None:
    stereo = Audio(np.array([[1.0, 0.5], [0.0, -0.5]]), 24000)
    mono = stereo.to_channels(1)
    assert mono.samples.tolist() == [[0.5, 0.0]]
    assert mono.to_channels(2).samples.tolist() == [[0.5, 0.0], [0.5, 0.0]]
    assert stereo.to_channels(2) is stereo
    assert Audio(np.ones((6, 3)), 24000).to_channels(1).samples.tolist() == [[1, 1, 1]]
    for audio, channels in ((stereo, 3), (stereo, 0), (mono, 6), (Audio(np.ones((6, 3)), 24000), 2)):
        with pytest.raises(AudioError, match=f"cannot make {channels} channels out of {audio.channels}"):
            audio.to_channels(channels)


def test_another_rate_lasts_as_long() -> None:
    audio = Audio(noise(2, 96_000), 32000)
    assert audio.resample(32000) is audio
    other = audio.resample(24000)
    assert (other.length, other.sample_rate, other.channels, other.seconds) == (72_000, 24000, 2, 3)
    assert Audio(noise(1, 1), 48000).resample(44100).length == 1


def test_to_a_file_and_back(tmp_path: Path) -> None:
    audio = Audio(2 * noise(), 32000)
    assert audio.save(tmp_path / "a.wav").gain_db == 0
    again = Audio.load(tmp_path / "a.wav")
    assert again.sample_rate == 32000
    np.testing.assert_array_equal(again.samples, audio.samples)
    with pytest.raises(OutputError, match="--force"):
        audio.save(tmp_path / "a.wav")
    assert audio.save(str(tmp_path / "a.wav"), force=True, encoding="pcm24").gain_db < -5
    with pytest.raises(HemiolaError):
        Audio.load(tmp_path / "b.wav")
