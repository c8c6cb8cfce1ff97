"""Notes: in tune, free of aliasing, quiet at both ends, and each instrument with a sound of its own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import signal

from hemiola.synth.drums import KIT_SOUNDS, sound_drum
from hemiola.synth.instruments import GUESTS, INSTRUMENTS, LEADS, sound_note

from . import listening

RATE = 32000


@pytest.mark.parametrize("name", INSTRUMENTS)
@pytest.mark.parametrize("pitch", [48, 69, 81])
def test_notes_are_in_tune(name: str, pitch: int):
    note = sound_note(name, pitch, RATE, 0.8, RATE)
    spectrum = np.abs(np.fft.rfft(note * np.hanning(len(note)), 8 * RATE))
    hz = 440 * 2 ** ((pitch - 69) / 12)
    around = slice(int(8 * hz * 0.95), int(8 * hz * 1.05))
    peak = (np.argmax(spectrum[around]) + around.start) / 8
    assert abs(1200 * np.log2(peak / hz)) < 12
    assert spectrum[around].max() > 0.08 * spectrum.max()


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_high_notes_do_not_alias(name: str):
    """At a low rate whatever folds down would lie between the partials: almost nothing is there."""
    rate, pitch = 8000, 84
    note = sound_note(name, pitch, rate, 1.0, rate)[rate // 4 : rate // 2]
    spectrum = np.abs(np.fft.rfft(note * np.blackman(len(note)))) ** 2
    hz = np.fft.rfftfreq(len(note), 1 / rate)
    below = spectrum[(hz > 30) & (hz < 480)].sum()
    assert below < 1e-4 * spectrum.sum()


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_notes_begin_and_end_in_silence_and_fade_after_release(name: str):
    note = sound_note(name, 60, RATE // 2, 1.0, RATE)
    assert len(note) > RATE // 2 and np.isfinite(note).all()
    assert abs(note[0]) < 1e-6 and abs(note[-1]) < 1e-6
    assert np.abs(np.diff(note)).max() < 0.7 * np.abs(note).max()


def test_leads_sound_different_from_each_other():
    """Each lead's spectrum, early and late in a note, in third-octave bands of decibels."""
    sounds = {}
    for name in (*LEADS, *GUESTS):
        note = sound_note(name, 72, RATE, 0.8, RATE)
        hz, _, spectrum = signal.stft(note, RATE, nperseg=2048)
        edges = 500 * 2 ** (np.arange(13) / 3)
        bands = [np.abs(spectrum[(hz >= a) & (hz < b)]).sum(axis=0) + 1e-6 for a, b in itertools.pairwise(edges)]
        level = 20 * np.log10(np.stack(bands))[:, [1, 4, 12, 24]]
        sounds[name] = np.maximum(level - level.max(), -50)
    for one, other in itertools.combinations(sounds, 2):
        assert np.sqrt(np.mean((sounds[one] - sounds[other]) ** 2)) > 4, (one, other)


@pytest.mark.parametrize("name", ["piano", "guitar", "bells", "marimba", "harp"])
def test_struck_notes_die_away_and_sustained_ones_do_not(name: str):
    def late(instrument: str) -> float:
        note = sound_note(instrument, 72, 2 * RATE, 0.8, RATE)
        return float(np.std(note[RATE : RATE + 8000]) / np.std(note[2000:10000]))

    assert late(name) < 0.5
    assert all(late(other) > 0.6 for other in ("organ", "flute", "strings", "synth", "trumpet", "clarinet"))


def test_louder_notes_are_brighter():
    soft, loud = (sound_note("piano", 60, RATE, velocity, RATE) for velocity in (0.4, 1.0))
    assert listening.centroid_hz(loud[1000:5000], RATE) > 1.1 * listening.centroid_hz(soft[1000:5000], RATE)


@pytest.mark.parametrize("kit", KIT_SOUNDS)
def test_drums_lie_in_their_bands(kit: str):
    heights = [listening.centroid_hz(sound_drum(kit, drum, RATE), RATE) for drum in ("kick", "tom", "snare", "hat")]
    assert heights[0] < 900 and heights[1] < 900
    assert 900 < heights[2] < heights[3] and heights[3] > 6000
    for drum in ("kick", "snare", "clap", "hat", "open", "tom"):
        stroke = sound_drum(kit, drum, RATE)
        assert not stroke.flags.writeable and abs(stroke[-1]) < 1e-4
        assert np.argmax(np.abs(stroke)) < 0.06 * RATE


def test_kits_sound_different():
    strokes = [np.abs(np.fft.rfft(sound_drum(kit, "kick", RATE), RATE)) for kit in KIT_SOUNDS]
    for one, other in itertools.combinations(strokes, 2):
        assert np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other) < 0.97
