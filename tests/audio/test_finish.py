"""The finish of a piece: exact length at any rate, order of its steps, loudness that never clips, one clear line."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola.audio.audio import Audio
from hemiola.audio.finish import Finish
from hemiola.audio.loudness import integrated_lufs
from hemiola.errors import InputError

RATE = 8000


def noise(seconds: float = 1, peak: float = 0.1, channels: int = 1, rate: int = RATE) -> Audio:
    samples = np.random.default_rng(0).uniform(-peak, peak, (channels, round(seconds * rate))).astype(np.float32)
    return Audio(samples, rate)


def test_nothing_asked_is_nothing_done() -> None:
    audio = noise(0.01)
    finished = Finish().apply(audio)
    np.testing.assert_array_equal(finished.audio.samples, audio.samples)
    assert (finished.audio.sample_rate, finished.loudness, finished.is_limited) == (RATE, None, False)


@settings(max_examples=80, deadline=None)
@given(
    seconds=st.fractions(Fraction(1, 1000), 2, max_denominator=9973),
    rates=st.tuples(st.sampled_from([8000, 24000, 32000, 44100]), st.sampled_from([4000, 22050, 32000, 44100, 96000])),
)
def test_the_length_is_exact_at_the_new_rate(seconds: Fraction, rates: tuple[int, int]) -> None:
    from_hz, to_hz = rates
    samples = np.ones((1, max(1, math.floor(seconds * from_hz + Fraction(1, 2)))), np.float32)
    finished = Finish(sample_rate=to_hz).apply(Audio(samples, from_hz), seconds)
    native = to_hz == from_hz
    assert finished.audio.length == (samples.shape[1] if native else math.floor(seconds * to_hz + Fraction(1, 2)))


def test_where_the_old_rate_ends_too_early_the_sound_goes_on() -> None:
    # 2.5 samples and a bit at 8 kHz are 3, at 96 kHz 30.06 are 30; 3.4 are 3, and 40.8 are 41: more than 36.
    seconds = Fraction(34, 10 * 8000)
    finished = Finish(sample_rate=96000).apply(Audio(np.full((1, 3), 0.5, np.float32), 8000), seconds)
    assert finished.audio.length == 41
    assert np.abs(finished.audio.samples[0, 36:41]).min() > 0


def test_fades_are_in_seconds_of_the_new_rate() -> None:
    finished = Finish(sample_rate=16000, fade_in="0.25", fade_out=Fraction(1, 8)).apply(
        Audio(np.full((2, RATE), 0.5, np.float32), RATE)
    )
    plain = Finish(sample_rate=16000).apply(Audio(np.full((2, RATE), 0.5, np.float32), RATE)).audio.samples
    ratio = finished.audio.samples / plain
    np.testing.assert_allclose(ratio[:, 4000:14000], 1)
    assert (ratio[:, :3999] < 1).all()
    assert (ratio[:, 14001:] < 1).all()
    np.testing.assert_allclose(ratio[:, [2000, 15000]], 0.5, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("target", [-14, -23.5, -40])
def test_loudness_is_what_was_asked(channels: int, target: float) -> None:
    finished = Finish(loudness=target, fade_in=0.5, fade_out=1).apply(noise(3, channels=channels))
    assert not finished.is_limited
    assert finished.loudness == pytest.approx(target, abs=0.01)
    assert integrated_lufs(finished.audio.samples, RATE) == finished.loudness


def test_loudness_is_measured_on_what_is_heard_after_the_fades() -> None:
    faded = Finish(fade_out=3).apply(noise(3)).audio
    alone = Finish(loudness=-30).apply(faded).audio
    together = Finish(loudness=-30, fade_out=3).apply(noise(3)).audio
    np.testing.assert_array_equal(alone.samples, together.samples)


def test_a_part_that_was_below_the_gate_is_reckoned_with() -> None:
    quiet, loud = noise(3, peak=0.0002).samples, noise(1, peak=0.002).samples
    finished = Finish(loudness=-20).apply(Audio(np.concatenate([quiet, loud, quiet], axis=1), RATE))
    assert finished.loudness == pytest.approx(-20, abs=0.05)


def test_more_than_full_scale_is_not_reached_and_told() -> None:
    audio = noise(2, peak=0.1)
    audio.samples[0, 500] = 0.9
    finished = Finish(loudness=-3).apply(audio)
    assert finished.is_limited
    assert finished.loudness < -10
    assert np.abs(finished.audio.samples).max() == pytest.approx(32767 / 32768, abs=1e-6)
    assert np.abs(finished.audio.samples).max() < 1
    np.testing.assert_allclose(finished.audio.samples / audio.samples, 32767 / 32768 / 0.9, rtol=1e-5)


def test_what_clips_already_is_turned_down() -> None:
    finished = Finish(loudness=-6).apply(noise(2, peak=3.0))
    assert np.abs(finished.audio.samples).max() < 1
    assert finished.is_limited == (finished.loudness < -6.01)


@pytest.mark.parametrize("peak", [0, 1e-9, 1e-4])
def test_silence_and_what_the_gate_takes_for_it_stay_as_they_are(peak: float) -> None:
    audio = noise(1, peak=peak)
    finished = Finish(loudness=-14).apply(audio)
    np.testing.assert_array_equal(finished.audio.samples, audio.samples)
    assert (finished.loudness, finished.is_limited) == (-math.inf, False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        *(({"sample_rate": rate}, "sample_rate must be") for rate in (0, -1, 3999, 400_000, 44100.0, "44100", True)),
        *(({"fade_in": fade}, "fade_in: ") for fade in (-1, "abc", "nan", None, 1e9)),
        ({"fade_out": "-0.5"}, "fade_out: a duration cannot be negative"),
        *(({"loudness": level}, "loudness must be") for level in (1, -70, -math.inf, math.nan, "-14", True)),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Finish(**values)


@pytest.mark.parametrize(
    ("values", "seconds", "message"),
    [
        ({"fade_in": 0.6, "fade_out": 0.5}, 1, "the fades take 1.1 s, the piece has 1 s"),
        ({"loudness": -14}, 0.39, "below 0.4 s"),
        ({"sample_rate": 4000}, "0.0001", "less than half a sample at 4000 Hz"),
    ],
)
def test_a_piece_that_is_too_short_is_refused(values: dict[str, Any], seconds: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Finish(**values).require_room(seconds)
    Finish(**values).require_room(1.1)


def test_settings_survive_as_json() -> None:
    finish = Finish(sample_rate=44100, fade_in=Fraction(1, 3), fade_out="0.5", loudness=-14)
    assert finish.to_dict() == {"sample_rate": 44100, "fade_in": "1/3", "fade_out": "0.5", "loudness": -14}
    assert Finish(**finish.to_dict()).to_dict() == finish.to_dict()
    assert Finish().to_dict() == {}
