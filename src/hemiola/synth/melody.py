"""Melodies: a one-bar motif that returns, varied, in the form A A B A."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hemiola.synth.harmony import Chord, Scale
from hemiola.synth.score import TICKS_PER_BAR, TICKS_PER_BEAT, Harmony, Note

_FORM = "AABA"
# A bar's rhythm as note lengths in sixteenths; 0 sixteenths of rest are written nowhere, "-" before a length is a rest.
_RHYTHMS = {
    "calm": ("8 4 4", "4 4 8", "6 2 8", "4 4 4 4", "8 8", "4 8 4", "4 2 2 8"),
    "lively": ("2 2 4 2 2 4", "4 2 2 4 4", "3 3 2 4 4", "2 2 2 2 4 4", "4 4 2 2 4", "2 4 2 4 4", "2 2 4 4 2 2"),
}
_STEPS = (-2, -1, -1, 0, 1, 1, 2)
_TICKS_PER_SIXTEENTH = TICKS_PER_BEAT // 4


@dataclass(frozen=True)
class Motif:
    """A bar of melody without harmony: lengths in ticks and the step of the scale taken to reach each note."""

    lengths: tuple[int, ...]
    steps: tuple[int, ...]


def write_melody(
    scale: Scale, harmonies: Sequence[Harmony], energy: str, compass: tuple[int, int], rng: np.random.Generator
) -> list[Note]:
    """A melody over all harmonies, its pitches inside `compass` (lowest and highest MIDI pitch)."""
    motifs = {"A": _draw_motif(energy, rng), "B": _draw_motif(energy, rng)}
    anchor = _anchor(scale, compass, rng)
    notes: list[Note] = []
    for bar in range(-(-harmonies[-1].end_ticks // TICKS_PER_BAR)):
        letter = _FORM[bar % len(_FORM)]
        motif = motifs[letter] if bar < len(_FORM) or rng.random() < 0.5 else _varied(motifs[letter], rng)
        start = anchor + (2 if letter == "B" else 0)
        notes += _phrase(motif, start, bar * TICKS_PER_BAR, scale, harmonies, compass)
    return notes


def _draw_motif(energy: str, rng: np.random.Generator) -> Motif:
    choices = _RHYTHMS[energy]
    lengths = tuple(int(length) * _TICKS_PER_SIXTEENTH for length in choices[rng.integers(len(choices))].split())
    steps = rng.choice(_STEPS, len(lengths))
    return Motif(lengths, (0, *(int(step) for step in steps[1:])))


def _varied(motif: Motif, rng: np.random.Generator) -> Motif:
    """The same rhythm with another way to its last note."""
    return Motif(motif.lengths, (*motif.steps[:-1], int(rng.choice((-2, -1, 1, 2)))))


def _anchor(scale: Scale, compass: tuple[int, int], rng: np.random.Generator) -> int:
    """The degree where phrases start: tonic, third or fifth near the middle of the compass."""
    middle = (compass[0] + compass[1]) // 2
    octave = round((middle - scale.pitch(2)) / 12)
    return 7 * octave + int(rng.choice((0, 0, 2, 4)))


def _phrase(
    motif: Motif, degree: int, start: int, scale: Scale, harmonies: Sequence[Harmony], compass: tuple[int, int]
) -> list[Note]:
    notes, tick = [], start
    for length, step in zip(motif.lengths, motif.steps):
        if tick >= harmonies[-1].end_ticks:
            break
        chord = next(harmony.chord for harmony in harmonies if harmony.start_ticks <= tick < harmony.end_ticks)
        degree += step
        strong = tick % (2 * TICKS_PER_BEAT) == 0
        if strong or length >= 2 * TICKS_PER_BEAT:
            degree = _nearest_chord_tone(degree, chord, scale)
        pitch = _within(scale.pitch(degree, chord), compass)
        notes.append(Note(tick, length, pitch, velocity=1.0 if strong else 0.8))
        tick += length
    return notes


def _nearest_chord_tone(degree: int, chord: Chord, scale: Scale) -> int:
    for distance in (0, 1, -1, 2):
        if scale.pitch(degree + distance, chord) % 12 in chord.pitch_classes:
            return degree + distance
    return degree


def _within(pitch: int, compass: tuple[int, int]) -> int:
    """The pitch, moved by octaves until it lies in the compass (which spans an octave or more)."""
    while pitch < compass[0]:
        pitch += 12
    while pitch > compass[1]:
        pitch -= 12
    return pitch
