"""The truth about a piece is heard in its sound, by measures that know nothing of the score."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy import signal

from hemiola.synth.compose import Piece, compose
from hemiola.synth.harmony import KEYS
from hemiola.synth.score import Brief

from . import listening

RATE = 32000
SEEDS = range(100, 116)


@lru_cache(maxsize=64)
def piece(seed: int) -> Piece:
    return compose(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_tempo_is_heard(seed: int):
    heard = listening.tempo(piece(seed).audio[0], RATE) / piece(seed).truth.tempo_bpm
    assert min(abs(heard / octave - 1) for octave in (0.5, 1, 2)) < 0.02


def test_beats_are_where_attacks_are():
    for seed in SEEDS:
        growth, moments = listening.novelty(piece(seed).audio[0], RATE)
        beats = np.array(piece(seed).truth.beat_seconds[1:])
        period = beats[1] - beats[0]

        def strength(times: np.ndarray, growth: np.ndarray = growth, moments: float = moments) -> float:
            places = np.round(times * moments).astype(int)
            near = places[:, None] + np.arange(-3, 4)
            return float(growth[np.clip(near, 0, len(growth) - 1)].max(axis=1).mean())

        assert strength(beats) > 1.3 * max(strength(beats - period / 3), strength(beats - period / 5)), seed


def test_attacks_are_heard_only_where_a_note_begins():
    quiet = compose(7, brief=Brief(lead="marimba", drums=False, tempo_bpm=72))
    growth, moments = listening.novelty(quiet.audio[0], RATE)
    peaks = signal.find_peaks(growth, height=growth.max() * 0.05, distance=6)[0] / moments
    onsets = np.array(quiet.truth.onset_seconds)
    assert len(peaks) > 8
    assert max(np.abs(onsets - peak).min() for peak in peaks) < 0.02


def test_chords_are_heard():
    ranks = []
    for seed in SEEDS:
        samples, truth = piece(seed).audio[0], piece(seed).truth
        for span in truth.chords:
            heard = samples[int(span.start_seconds * RATE) : int(span.end_seconds * RATE)]
            triads = listening.best_triads(heard, RATE)
            if len(heard) > 0.8 * RATE and frozenset(span.pitch_classes) in triads:
                ranks.append(triads.index(frozenset(span.pitch_classes)))
    assert len(ranks) > 40
    assert np.mean(np.array(ranks) == 0) > 0.8
    assert np.mean(np.array(ranks) < 3) > 0.93


def test_keys_are_heard():
    right, related = 0, 0
    for seed in SEEDS:
        truth = piece(seed).truth
        tonic = KEYS.index(truth.key)
        relative = ((tonic + 3) % 12, "major") if truth.mode == "minor" else ((tonic - 3) % 12, "minor")
        heard = listening.key(piece(seed).audio[0], RATE)
        right += heard == (tonic, truth.mode)
        related += heard == relative
    assert right >= 0.55 * len(SEEDS)
    assert right + related >= 0.75 * len(SEEDS)


def test_drums_are_heard_when_there_are_any_and_only_then():
    for seed in range(6):
        played = compose(seed, seconds=4, brief=Brief(drums=True))
        silent = compose(seed, seconds=4, brief=Brief(drums=False))
        assert played.truth.drums and not silent.truth.drums and not silent.truth.drum_onset_seconds
        with_drums = listening.share_above(played.audio[0], RATE, 8000)
        without = listening.share_above(silent.audio[0], RATE, 8000)
        assert with_drums > 0.0005 and with_drums > 8 * without, seed


@pytest.mark.parametrize("kit", ["soft", "acoustic", "electronic", "driving"])
def test_kick_is_low_and_hat_is_high_at_the_strokes(kit: str):
    drummed = compose(31, brief=Brief(kit=kit, lead="flute", tempo_bpm=90))
    strokes = drummed.truth.drum_onset_seconds
    high = signal.sosfilt(signal.butter(6, 7000, "highpass", fs=RATE, output="sos"), drummed.audio[0])

    def energy(at: float) -> float:
        return float(np.mean(high[int(at * RATE) : int((at + 0.02) * RATE)] ** 2))

    sharp = [at for drum in ("hat", "open", "snare", "clap") for at in strokes.get(drum, ())]
    before = [energy(at - 0.03) for at in sharp if at > 0.1]
    assert np.median([energy(at) for at in sharp]) > 4 * np.median(before)
    assert strokes["kick"][0] == pytest.approx(0, abs=0.009)


def test_timing_is_human_within_eight_milliseconds():
    drifts = []
    for seed in SEEDS:
        truth = piece(seed).truth
        twelfths = np.array(truth.onset_seconds) * truth.tempo_bpm / 60 * 12
        drifts += list((twelfths - np.round(twelfths)) * 60 / truth.tempo_bpm / 12)
    assert 0.001 < np.std(drifts) < 0.005
    assert np.abs(drifts).max() <= 0.0081
