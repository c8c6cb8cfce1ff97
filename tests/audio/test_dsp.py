"""Fades and levels, against sums made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hemiola.audio import dsp

NOISE = np.random.default_rng(0).uniform(-1, 1, (2, 1001)).astype(np.float32)


def test_a_fade_rises_from_silence_and_leaves_the_rest() -> None:
    faded = dsp.fade_in(np.ones((2, 10), np.float32), 4)
    # (1 - cos(pi * x)) / 2 at x = 1/8, 3/8, 5/8, 7/8
    rise = [0.03806, 0.30866, 0.69134, 0.96194]
    np.testing.assert_allclose(faded, [rise + [1] * 6] * 2, atol=1e-5)
    assert faded.dtype == np.float32


def test_fading_out_is_fading_in_backwards() -> None:
    np.testing.assert_array_equal(dsp.fade_out(NOISE, 300), dsp.fade_in(NOISE[:, ::-1], 300)[:, ::-1])


def test_a_fade_out_and_a_fade_in_add_up() -> None:
    one = np.ones((1, 77), np.float32)
    np.testing.assert_allclose(dsp.fade_in(one, 77) + dsp.fade_out(one, 77), one, atol=1e-6)


@pytest.mark.parametrize("fade", [dsp.fade_in, dsp.fade_out])
def test_fades_of_no_length_of_too_much_and_of_one_sample(fade: object) -> None:
    kept = NOISE.copy()
    np.testing.assert_array_equal(fade(NOISE, 0), NOISE)  # type: ignore[operator]
    np.testing.assert_array_equal(fade(NOISE, 9999), fade(NOISE, 1001))  # type: ignore[operator]
    assert fade(np.ones((1, 1), np.float32), 5).tolist() == [[0.5]]  # type: ignore[operator]
    np.testing.assert_array_equal(NOISE, kept)


def test_peak() -> None:
    assert dsp.peak(np.array([[0.5, -0.75], [0.25, 0.0]], np.float32)) == 0.75
    assert dsp.peak(np.zeros((1, 0), np.float32)) == 0


def test_rms_in_windows() -> None:
    samples = np.array([[3, 3, 0, 0, 2], [3, 3, 4, 4, 2]], np.float32)
    np.testing.assert_allclose(dsp.rms(samples, 2), [3, np.sqrt(8), 2])
    np.testing.assert_allclose(dsp.rms(samples), [np.sqrt((36 + 32 + 8) / 10)])
    np.testing.assert_allclose(dsp.rms(samples, 99), dsp.rms(samples))


def test_rms_of_a_long_quiet_sound_does_not_lose_precision() -> None:
    quiet = np.full((1, 3_000_000), 1e-4, np.float32)
    assert dsp.rms(quiet)[0] == pytest.approx(1e-4, rel=1e-6)


def test_decibels() -> None:
    sine = np.sin(2 * np.pi * np.arange(1000) / 50)[None].astype(np.float32)
    np.testing.assert_allclose(dsp.rms_db(sine), [-3.0103], atol=1e-3)
    assert dsp.rms_db(np.zeros((1, 4), np.float32)).tolist() == [-np.inf]
    np.testing.assert_allclose(dsp.rms_db(np.full((1, 4), 0.1, np.float32), 2), [-20, -20], atol=1e-5)
