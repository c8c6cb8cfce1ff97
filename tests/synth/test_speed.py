"""A score that is played faster or slower: the same notes at other moments, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from hemiola.synth.captions import describe
from hemiola.synth.plan import plan
from hemiola.synth.render import render
from hemiola.synth.score import Brief, Harmony, Note, Part, Score, truth_of
from hemiola.synth.seeds import stream

RATE = 8000


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**40), st.fractions(Fraction(1, 2), 2, max_denominator=1000))
def test_every_moment_comes_that_much_earlier(seed: int, speed: Fraction):
    score = plan(seed, 5)
    played = score.played(speed)
    assert played.seconds * speed == 5
    for written, heard in zip(score.parts, played.parts, strict=True):
        for one, other in zip(written.notes, heard.notes, strict=True):
            assert score.when(one.start_ticks, one.late_ms) == played.when(other.start_ticks, other.late_ms) * speed
            assert one.pitch == other.pitch
    truth, expected = truth_of(played), truth_of(score)
    np.testing.assert_allclose(np.array(truth.onset_seconds) * float(speed), expected.onset_seconds, rtol=1e-12)
    np.testing.assert_allclose(np.array(truth.beat_seconds) * float(speed), expected.beat_seconds, rtol=1e-12)
    assert abs(truth.tempo_bpm - expected.tempo_bpm * speed) <= Fraction(1, 2)
    assert played.played(1 / speed) == score


def test_a_caption_says_the_tempo_that_is_heard():
    score = plan(3, 4, Brief(tempo_bpm=100)).played(Fraction(5, 4))
    captions = [describe(score, stream(seed, "caption")) for seed in range(20)]
    assert any("125 bpm" in caption for caption in captions)
    assert not any("100 bpm" in caption for caption in captions)


def one_note(pitch: int) -> Score:
    """Half a second of silence, then an organ tone for a second, at 60 bpm."""
    score = plan(0, 4, Brief(tempo_bpm=60, drums=False))
    note = Note(6, 12, pitch)
    harmony = Harmony(0, 48, score.harmonies[0].chord)
    return replace(score, room=0.0, harmonies=(harmony,), parts=(Part("lead", "organ", (note,)),))


@pytest.mark.parametrize("speed", [Fraction(4, 5), Fraction(1), Fraction(5, 4)])
def test_a_tone_comes_earlier_and_is_shorter_at_the_same_pitch(speed: Fraction):
    audio = render(one_note(69).played(speed), sample_rate=RATE)[0]
    assert len(audio) == round(4 * RATE / speed)
    # Where nothing sounds there is only what taking out the mean has left.
    loud = np.abs(audio) > 0.02
    assert np.argmax(loud) / RATE == pytest.approx(float(0.5 / speed), abs=0.004)
    release = 0.04
    assert (len(audio) - np.argmax(loud[::-1])) / RATE == pytest.approx(float(1.5 / speed) + release, abs=0.02)
    hz, power = signal.periodogram(audio, RATE, nfft=1 << 17)
    # Half of 440: an organ sounds an octave below as well.
    assert hz[np.argmax(power)] % 220 == pytest.approx(0, abs=1) or hz[np.argmax(power)] % 220 > 219
