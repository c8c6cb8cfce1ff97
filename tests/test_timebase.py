"""Exact time: every frame-exact duration, every spelling of a number, and the ways in which others lost samples."""

from __future__ import annotations

import math
import time
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola.timebase import MAX_SECONDS, Timebase, exact_seconds

CODECS = {"24 kHz": Timebase(24000, 320), "32 kHz": Timebase(32000, 640), "48 kHz": Timebase(48000, 320)}
every_codec = pytest.mark.parametrize("clock", CODECS.values(), ids=CODECS)
clocks = st.builds(Timebase, st.integers(1, 400_000), st.integers(1, 5_000))
durations = st.fractions(0, MAX_SECONDS)
# A busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


# ---- what the codecs need, to the sample


@every_codec
def test_every_frame_exact_duration_up_to_two_minutes(clock: Timebase) -> None:
    for frames in range(int(120 * clock.frame_rate) + 1):
        exact = Fraction(frames * clock.hop, clock.sample_rate)
        # As a fraction, as the nearest float, and as a float is computed and typed by people.
        for seconds in (exact, float(exact), frames / float(clock.frame_rate), f"{float(exact):.9f}"):
            samples = clock.samples(seconds)
            assert samples == frames * clock.hop
            assert clock.frames(samples) == frames


@every_codec
def test_a_million_frames_do_not_drift(clock: Timebase) -> None:
    # A day is the limit of a duration typed in; the clock itself goes on without losing a sample.
    last = 10**6
    assert clock.frames(clock.samples_of(last)) == last
    assert clock.frames(clock.samples_of(last) + 1) == last + 1
    assert clock.seconds(clock.samples_of(last)) * clock.frame_rate == last
    step = clock.seconds(clock.hop)
    for frames in range(0, last + 1, 997):
        assert clock.samples(frames * step) == frames * clock.hop
        assert clock.samples(float(frames * step)) == frames * clock.hop


@pytest.mark.parametrize(
    "rate,hop,seconds,samples,frames",
    [
        (24000, 320, 3, 72_000, 225),
        (24000, 320, 24, 576_000, 1800),
        (32000, 640, 3, 96_000, 150),
        (32000, 640, 24, 768_000, 1200),
        (48000, 320, 3, 144_000, 450),
        (32000, 640, "0.5", 16_000, 25),
        (32000, 640, 0.01, 320, 1),
        (32000, 640, 0, 0, 0),
        (24000, 320, Decimal("10.667"), 256_008, 801),
        (24000, 320, Fraction(800 * 320, 24000), 256_000, 800),
        (32000, 640, "1/3", 10_667, 17),
    ],
)
def test_by_hand(rate: int, hop: int, seconds: Any, samples: int, frames: int) -> None:
    clock = Timebase(rate, hop)
    assert clock.samples(seconds) == samples
    assert clock.frames(samples) == frames


def test_frame_rates() -> None:
    assert [clock.frame_rate for clock in CODECS.values()] == [75, 50, 150]
    assert Timebase(44100, 320).frame_rate == Fraction(2205, 16)


# ---- histories: each of these went wrong somewhere


def test_800_frames_of_24_seconds_at_24_khz_are_256000_samples_from_the_middle() -> None:
    clock = CODECS["24 kHz"]
    total = clock.samples(24)
    assert total == 576_000
    assert clock.samples_of(800) == 256_000
    assert clock.center(total, 800) == slice(160_000, 416_000)
    # With the other codec's clock, 800 frames would have been 16 s: the mistake that gave the package its name.
    assert CODECS["32 kHz"].seconds(CODECS["32 kHz"].samples_of(800)) == 16


def test_three_seconds_at_32_khz_are_150_frames_in_153_steps() -> None:
    clock = CODECS["32 kHz"]
    samples = clock.samples(3)
    frames = clock.frames(samples)
    steps = frames + max((0, 1, 2, 3))
    assert (samples, frames, steps) == (96_000, 150, 153)
    # Counting steps as frames, or frames as steps, is 60 ms too much or too little.
    assert clock.seconds(clock.samples_of(steps - frames)) == Fraction(60, 1000)


def test_int_of_seconds_times_fifty_loses_a_frame_73_times_in_1500() -> None:
    """Why no duration is ever multiplied as a float: each of these durations is k frames."""
    clock = CODECS["32 kHz"]
    typed = [k / 50 for k in range(1, 1501)]
    lost = [seconds for k, seconds in enumerate(typed, 1) if int(seconds * 50) != k]
    assert len(lost) == 73
    assert all(clock.frames(clock.samples(seconds)) == k for k, seconds in enumerate(typed, 1))


# ---- properties


@given(clocks, durations)
def test_samples_are_the_nearest_whole_number_and_a_half_goes_up(clock: Timebase, seconds: Fraction) -> None:
    exact = seconds * clock.sample_rate
    assert exact - Fraction(1, 2) < clock.samples(seconds) <= exact + Fraction(1, 2)


@given(clocks, st.integers(0, 10**6))
def test_exactly_half_a_sample_goes_up_and_a_hair_less_goes_down(clock: Timebase, samples: int) -> None:
    half = Fraction(2 * samples + 1, 2 * clock.sample_rate)
    hair = Fraction(1, 10**20)
    if half <= MAX_SECONDS:
        assert clock.samples(half) == samples + 1
        assert clock.samples(half - hair) == samples


@given(clocks, st.decimals(0, MAX_SECONDS, allow_nan=False, places=6))
def test_a_decimal_means_itself_however_it_is_written(clock: Timebase, seconds: Decimal) -> None:
    expected = int((seconds * clock.sample_rate).quantize(Decimal(1), ROUND_HALF_UP))
    spellings = (seconds, str(seconds), f" {seconds:e} ", f"{seconds:+f}", Fraction(seconds), float(seconds))
    assert {clock.samples(each) for each in spellings} == {expected}


@given(st.floats(0, MAX_SECONDS))
def test_a_float_means_what_it_prints(seconds: float) -> None:
    assert abs(exact_seconds(seconds) - Fraction(Decimal(repr(seconds)))) <= Fraction(1, 10**30)


def test_a_tenth_is_a_tenth() -> None:
    assert exact_seconds(0.1) == Fraction(1, 10) != Fraction(0.1)
    assert exact_seconds(np.float64(0.1)) == exact_seconds(np.float32(0.1)) == Fraction(1, 10)
    assert exact_seconds(np.int16(30_000)) * 1000 == 30_000_000


@given(clocks, st.integers(0, 10**12))
def test_samples_survive_the_way_through_seconds(clock: Timebase, samples: int) -> None:
    seconds = clock.seconds(samples)
    assert seconds * clock.sample_rate == samples
    if seconds <= MAX_SECONDS:
        assert clock.samples(seconds) == samples


@given(clocks, st.integers(0, 10**12))
def test_frames_are_just_enough(clock: Timebase, samples: int) -> None:
    frames = clock.frames(samples)
    assert clock.samples_of(frames) >= samples
    assert frames == 0 or clock.samples_of(frames - 1) < samples


@given(clocks, durations, durations)
def test_a_longer_duration_never_has_fewer_samples(clock: Timebase, one: Fraction, other: Fraction) -> None:
    assert (clock.samples(one) <= clock.samples(other)) or one > other


@given(clocks, st.integers(0, 10**6), st.integers(0, 10**4))
def test_the_centre_leaves_as_much_on_either_side(clock: Timebase, spare: int, frames: int) -> None:
    total = frames * clock.hop + 2 * spare
    middle = clock.center(total, frames)
    assert middle.stop - middle.start == frames * clock.hop
    assert middle.start == total - middle.stop == spare
    if total + 1 >= frames * clock.hop:
        with pytest.raises(ValueError, match="odd"):
            clock.center(total + 1, frames)


@given(clocks, durations)
def test_the_frame_near_a_second_begins_within_half_a_hop(clock: Timebase, seconds: Fraction) -> None:
    assert abs(clock.frame_near(seconds) * clock.hop - seconds * clock.sample_rate) <= Fraction(clock.hop, 2)


def test_beats_at_111_bpm_fall_on_frames_27_apart() -> None:
    assert [CODECS["32 kHz"].frame_near(Fraction(60 * beat, 111)) for beat in range(5)] == [0, 27, 54, 81, 108]
    assert CODECS["32 kHz"].frame_near("0.03") == 2  # exactly between 1 and 2


@given(clocks, st.integers(0, 10**6))
def test_a_moment_between_frames_goes_on_where_whole_frames_are(clock: Timebase, frames: int) -> None:
    exact = clock.seconds(clock.samples_of(frames))
    assert clock.moment(frames) == pytest.approx(float(exact), rel=1e-12)
    assert clock.moment(frames + 0.25) - clock.moment(frames) == pytest.approx(0.25 / float(clock.frame_rate), rel=1e-5)


def test_a_centre_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="801 frames are 256320 samples, more than the 256000 there are"):
        CODECS["24 kHz"].center(256_000, 801)


# ---- what is no duration


@pytest.mark.parametrize(
    "seconds,says",
    [
        (-1, "cannot be negative: -1 s"),
        ("-0.001", "cannot be negative: -0.001 s"),
        ("-1e999999999", "cannot be negative"),
        (Fraction(-1, 10**9), "cannot be negative"),
        (math.nan, "finite number of seconds, not nan"),
        (math.inf, "finite number of seconds, not inf"),
        (-math.inf, "finite"),
        ("nan", "finite"),
        ("-Infinity", "finite"),
        (Decimal("sNaN"), "finite"),
        (1e9, "1000000000.0 s is longer than a day"),
        (86400.001, "longer than a day"),
        ("1e999999999", "1e999999999 s is longer than a day"),
        pytest.param("1" * 5000, "1111... s is longer than a day", id="long text"),
        pytest.param(10**5000, "longer than a day", id="long int"),
        pytest.param("1" * 5000 + "/1", "not a duration in seconds", id="long fraction"),
        ("abc", "not a duration in seconds: 'abc'"),
        ("", "not a duration"),
        ("1/0", "not a duration in seconds: '1/0'"),
        ("1e5/2", "not a duration"),
        ("1:30", "not a duration"),
        ("3 s", "not a duration"),
        ("0x10", "not a duration"),
        (True, "not a duration in seconds: 'True'"),
        (None, "not a duration in seconds: 'None'"),
        (1j, "not a duration"),
        (b"3", "not a duration"),
        ([3], "not a duration"),
        (np.bool_(True), "not a duration"),
        (np.zeros(1), "not a duration"),
    ],
)
def test_what_is_no_duration_is_said_at_once(seconds: Any, says: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(ValueError) as caught:
        CODECS["32 kHz"].samples(seconds)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 120
    assert time.perf_counter() - begun < 1


@given(st.text(max_size=12) | st.floats() | st.binary() | st.none() | st.complex_numbers())
def test_any_input_is_a_duration_or_a_value_error(seconds: Any) -> None:
    try:
        assert 0 <= exact_seconds(seconds) <= MAX_SECONDS
    except ValueError as error:
        assert "duration" in str(error)


def test_next_to_nothing_is_nothing_and_a_day_is_the_most() -> None:
    clock = CODECS["48 kHz"]
    assert clock.samples("1e-999999999") == clock.samples(5e-324) == clock.samples("-0") == 0
    assert clock.samples(MAX_SECONDS) == 48000 * 86400


@pytest.mark.parametrize("bad", [0, -1, 1.5, "24000", True, None])
def test_a_clock_needs_whole_positive_rates(bad: Any) -> None:
    with pytest.raises(ValueError, match="sample_rate must be a positive integer"):
        Timebase(bad, 320)
    with pytest.raises(ValueError, match="hop must be a positive integer"):
        Timebase(24000, bad)


@pytest.mark.parametrize("bad,says", [(-1, "cannot be negative"), (1.0, "whole number"), ("1", "whole number")])
def test_counts_are_whole_and_not_negative(bad: Any, says: str) -> None:
    clock = CODECS["24 kHz"]
    for ask in (clock.frames, clock.samples_of, clock.seconds):
        with pytest.raises(ValueError, match=says):
            ask(bad)
    assert clock.frames(np.int32(321)) == 2
