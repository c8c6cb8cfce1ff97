"""Resampling: lengths counted by hand and in integers, sound against sines that are known at any rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola.audio.resample import resample, resampled, resampled_length
from hemiola.errors import AudioError

RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000)


@pytest.mark.parametrize(
    "length,from_hz,to_hz,expected",
    [
        (96_000, 32000, 24000, 72_000),
        (44_100, 44100, 48000, 48_000),
        (44_101, 44100, 32000, 32_001),  # 32000.73
        (44_099, 44100, 32000, 31_999),  # 31999.27
        (1, 24000, 32000, 1),  # 1.33
        (1, 48000, 24000, 1),  # a half goes up
        (3, 48000, 24000, 2),  # 1.5
        (1, 48000, 8000, 1),  # 0.17, but never nothing
        (1, 8000, 48000, 6),
    ],
)
def test_lengths_by_hand(length: int, from_hz: int, to_hz: int, expected: int) -> None:
    assert resampled_length(length, from_hz, to_hz) == expected
    assert resample(np.ones((1, length), np.float32), from_hz, to_hz).shape == (1, expected)


@settings(deadline=None)
@given(st.integers(1, 5000), st.sampled_from(RATES), st.sampled_from(RATES), st.integers(1, 3))
def test_any_length_is_the_nearest(length: int, from_hz: int, to_hz: int, channels: int) -> None:
    heard = resample(np.zeros((channels, length), np.float32), from_hz, to_hz)
    assert heard.shape[0] == channels
    assert heard.shape[1] == 1 or abs(heard.shape[1] * from_hz - length * to_hz) * 2 <= from_hz
    assert heard.dtype == np.float32
    assert heard.flags.c_contiguous


@pytest.mark.parametrize("from_hz", RATES)
@pytest.mark.parametrize("to_hz", RATES)
def test_a_sine_stays_the_same_sine(from_hz: int, to_hz: int) -> None:
    def sines(rate: int) -> np.ndarray:
        times = np.arange(rate // 5) / rate
        return np.stack([np.sin(2 * np.pi * 440 * times), 0.5 * np.cos(2 * np.pi * 990 * times)]).astype(np.float32)

    heard, expected = resample(sines(from_hz), from_hz, to_hz), sines(to_hz)
    assert heard.shape == expected.shape
    inside = slice(to_hz // 20, -to_hz // 20)  # the ends ring, as everything before and after is silence
    np.testing.assert_allclose(heard[:, inside], expected[:, inside], atol=1e-4)


def test_what_the_lower_rate_cannot_hold_is_gone() -> None:
    times = np.arange(48000) / 48000
    heard = resample(np.sin(2 * np.pi * 15000 * times)[None].astype(np.float32), 48000, 24000)
    assert np.abs(heard[:, 1000:-1000]).max() < 1e-4


def test_the_end_is_sound_and_not_padding() -> None:
    for length in range(1, 400):
        heard = resample(np.ones((1, length), np.float32), 32000, 48000)
        assert abs(heard[0, -1]) > 0.1


def test_the_same_rate_changes_nothing() -> None:
    sound = np.random.default_rng(0).normal(size=(2, 99)).astype(np.float32)
    np.testing.assert_array_equal(resample(sound, 44100, 44100), sound)


@pytest.mark.parametrize("from_hz,to_hz", [(1, 10**6), (10**6, 1)])
def test_rates_too_far_apart_are_refused_at_once(from_hz: int, to_hz: int) -> None:
    with pytest.raises(AudioError, match="more than 1000 times apart"):
        resample(np.ones((1, 10), np.float32), from_hz, to_hz)


@pytest.mark.parametrize("to_hz", [0, -1, 1.5, "48000", None, True])
def test_rates_that_are_none(to_hz: object) -> None:
    with pytest.raises(AudioError, match="cannot resample from 24000"):
        resample(np.ones((1, 10), np.float32), 24000, to_hz)  # type: ignore[arg-type]


@given(
    lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=6),
    rates=st.sampled_from([(44100, 24000), (8000, 32000), (48000, 48000), (32000, 24000), (22050, 48000)]),
    channels=st.integers(1, 2),
)
@settings(max_examples=40, deadline=None)
def test_blocks_become_what_the_whole_becomes(lengths: list[int], rates: tuple[int, int], channels: int) -> None:
    whole = np.random.default_rng(len(lengths)).standard_normal((channels, sum(lengths))).astype(np.float32)
    blocks = np.split(whole, np.cumsum(lengths)[:-1], axis=1)
    joined = np.concatenate(list(resampled(blocks, *rates)), axis=1)
    np.testing.assert_allclose(joined, resample(whole, *rates), atol=1e-6)


def test_no_block_gives_none_and_an_impossible_rate_is_refused() -> None:
    assert list(resampled([], 44100, 24000)) == []
    with pytest.raises(AudioError, match="more than 1000 times apart"):
        list(resampled([np.zeros((1, 5), np.float32)], 1, 24000))
