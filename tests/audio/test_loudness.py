"""Loudness against what the standards say: ITU-R BS.1770-4's own filter and sine, EBU Tech 3341's test signals."""

from __future__ import annotations

import math

import numpy as np
import pyloudnorm
import pytest
from scipy import signal

from hemiola.audio.loudness import gain_between, integrated_lufs
from hemiola.errors import AudioError


def sine(levels_db: list[tuple[float, float]], rate: int, channels: int = 2, hz: float = 1000) -> np.ndarray:
    """A sine whose peak has these levels for so many seconds each: [(dB, seconds), ...]."""
    parts = [np.full(round(seconds * rate), 10 ** (level / 20)) for level, seconds in levels_db]
    amplitude = np.concatenate(parts)
    wave = amplitude * np.sin(2 * np.pi * hz * np.arange(amplitude.size) / rate)
    return np.tile(wave, (channels, 1)).astype(np.float32)


# EBU Tech 3341, "minimum requirements" cases 1 to 5: stereo, in phase, 1000 Hz, each within 0.1 LU.
CASES = [
    ([(-23, 20)], -23.0),
    ([(-33, 20)], -33.0),
    ([(-36, 10), (-23, 60), (-36, 10)], -23.0),
    ([(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)], -23.0),
    ([(-26, 20), (-20, 20.1), (-26, 20)], -23.0),
]


@pytest.mark.parametrize(("levels", "expected"), CASES)
def test_the_broadcasters_test_signals(levels: list[tuple[float, float]], expected: float) -> None:
    assert integrated_lufs(sine(levels, 8000), 8000) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("rate", [8000, 22050, 32000, 44100, 48000])
def test_the_standards_own_sine(rate: int) -> None:
    # "If a 0 dB FS, 997 Hz sine wave is applied to the left ... input, the indicated loudness will equal -3.01 LKFS."
    one = sine([(0, 3)], rate, channels=1, hz=997)
    assert integrated_lufs(one, rate) == pytest.approx(-3.01, abs=0.05)
    assert integrated_lufs(np.repeat(one, 2, axis=0), rate) == pytest.approx(0, abs=0.05)


def test_the_filters_are_the_standards_tables() -> None:
    meter = pyloudnorm.Meter(48000, filter_class="DeMan")
    shelf, high_pass = meter._filters.values()
    np.testing.assert_allclose(shelf.b, [1.53512485958697, -2.69169618940638, 1.19839281085285], atol=1e-8)
    np.testing.assert_allclose(shelf.a, [1, -1.69065929318241, 0.73248077421585], atol=1e-8)
    np.testing.assert_allclose(high_pass.b, [1, -2, 1], atol=1e-8)
    np.testing.assert_allclose(high_pass.a, [1, -1.99004745483398, 0.99007225036621], atol=1e-8)


@pytest.mark.parametrize("seconds", [0.4, 0.46, 0.5, 0.97, 1.0])
def test_only_whole_blocks_count(seconds: float) -> None:
    """Loudness of noise at 48 kHz by the formulas of BS.1770-4, blocks in full, nothing gated."""
    rate = 48000
    noise = 0.1 * np.random.default_rng(1).standard_normal((1, round(seconds * rate))).astype(np.float32)
    weighted = signal.lfilter(
        [1.53512485958697, -2.69169618940638, 1.19839281085285], [1, -1.69065929318241, 0.73248077421585], noise[0]
    )
    weighted = signal.lfilter([1, -2, 1], [1, -1.99004745483398, 0.99007225036621], weighted)
    starts = range(0, weighted.size - 19200 + 1, 4800)
    powers = [np.mean(weighted[start : start + 19200] ** 2) for start in starts]
    assert integrated_lufs(noise, rate) == pytest.approx(-0.691 + 10 * math.log10(np.mean(powers)), abs=1e-3)


def test_silence_and_what_lies_below_the_gate() -> None:
    assert integrated_lufs(np.zeros((2, 8000), np.float32), 8000) == -math.inf
    assert integrated_lufs(sine([(-75, 2)], 8000), 8000) == -math.inf


@pytest.mark.parametrize(("shape", "message"), [((1, 3199), "below 0.4 s"), ((3, 8000), "3 channels")])
def test_what_has_no_loudness(shape: tuple[int, int], message: str) -> None:
    with pytest.raises(AudioError, match=message):
        integrated_lufs(np.zeros(shape, np.float32), 8000)


def test_a_gain_of_six_db_doubles() -> None:
    assert gain_between(-20, -13.9794) == pytest.approx(2, rel=1e-5)
