"""Accompaniment: chords that are held, pulsed or broken up, and bass lines that follow their roots."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hemiola.synth.harmony import Chord
from hemiola.synth.score import TICKS_PER_BEAT, Harmony, Note

_EIGHTH = TICKS_PER_BEAT // 2


def voiced(chord: Chord, low: int) -> list[int]:
    """The chord's pitches inside the octave above `low`, ascending: close voicings that move little."""
    return sorted(low + (pitch_class - low) % 12 for pitch_class in chord.pitch_classes)


def held(harmony: Harmony, low: int) -> list[Note]:
    """The chord, once, for as long as it lasts."""
    length = harmony.end_ticks - harmony.start_ticks
    return [Note(harmony.start_ticks, length, pitch) for pitch in voiced(harmony.chord, low)]


def pulsed(harmony: Harmony, low: int) -> list[Note]:
    """The chord on every beat."""
    return [
        Note(tick, TICKS_PER_BEAT - 2, pitch, _accent(tick))
        for tick in range(harmony.start_ticks, harmony.end_ticks, TICKS_PER_BEAT)
        for pitch in voiced(harmony.chord, low)
    ]


def stabs(harmony: Harmony, low: int) -> list[Note]:
    """The chord on every beat, short."""
    return [
        Note(tick, TICKS_PER_BEAT // 4, pitch, _accent(tick))
        for tick in range(harmony.start_ticks, harmony.end_ticks, TICKS_PER_BEAT)
        for pitch in voiced(harmony.chord, low)
    ]


def broken(harmony: Harmony, low: int) -> list[Note]:
    """Root on the first beat of the chord, the rest of it on the beats after (an oom-pah)."""
    root, *upper = voiced(harmony.chord, low)
    beats = range(harmony.start_ticks, harmony.end_ticks, TICKS_PER_BEAT)
    notes = []
    for count, tick in enumerate(beats):
        pitches = [root - 12, root] if count % 2 == 0 else upper
        notes += [Note(tick, TICKS_PER_BEAT, pitch, _accent(tick)) for pitch in pitches]
    return notes


def arpeggio(harmony: Harmony, low: int) -> list[Note]:
    """The chord's notes up and down again in eighths."""
    first, second, third = voiced(harmony.chord, low)
    figure = (first, second, third, second) if third - first > 7 else (first, third, first + 12, third)
    ticks = range(harmony.start_ticks, harmony.end_ticks, _EIGHTH)
    return [Note(tick, 2 * _EIGHTH, figure[count % 4], _accent(tick)) for count, tick in enumerate(ticks)]


def offbeats(harmony: Harmony, low: int) -> list[Note]:
    """A chord on the first beat, then between the beats."""
    ticks = range(harmony.start_ticks + _EIGHTH, harmony.end_ticks, TICKS_PER_BEAT)
    return [
        Note(tick, _EIGHTH - 1, pitch, 0.8)
        for tick in (harmony.start_ticks, *ticks)
        for pitch in voiced(harmony.chord, low)
    ]


def bass_roots(harmony: Harmony, low: int) -> list[Note]:
    """The root on every second beat, long."""
    return _bass(harmony, low, 2 * TICKS_PER_BEAT, (0,))


def bass_beats(harmony: Harmony, low: int) -> list[Note]:
    """The root on every beat."""
    return _bass(harmony, low, TICKS_PER_BEAT, (0,))


def bass_fifths(harmony: Harmony, low: int) -> list[Note]:
    """Root and fifth by turns, a beat each."""
    return _bass(harmony, low, TICKS_PER_BEAT, (0, (harmony.chord.pitch_classes[2] - harmony.chord.root) % 12))


def bass_eighths(harmony: Harmony, low: int) -> list[Note]:
    """The root in eighths, driving."""
    return _bass(harmony, low, _EIGHTH, (0,))


def bass_octaves(harmony: Harmony, low: int) -> list[Note]:
    """Root and octave by turns in eighths."""
    return _bass(harmony, low, _EIGHTH, (0, 12))


def bass_walking(harmony: Harmony, low: int) -> list[Note]:
    """Root, third, fifth and third, a beat each."""
    third, fifth = ((pitch - harmony.chord.root) % 12 for pitch in harmony.chord.pitch_classes[1:])
    return _bass(harmony, low, TICKS_PER_BEAT, (0, third, fifth, third))


def bass_gallop(harmony: Harmony, low: int) -> list[Note]:
    """The root on the beat and twice in its second half."""
    return [
        Note(tick + late, length, low + (harmony.chord.root - low) % 12, _accent(tick + late))
        for tick in range(harmony.start_ticks, harmony.end_ticks, TICKS_PER_BEAT)
        for late, length in ((0, _EIGHTH), (_EIGHTH, _EIGHTH // 2), (_EIGHTH + _EIGHTH // 2, _EIGHTH // 2))
    ]


Pattern = Callable[[Harmony, int], list[Note]]

# Patterns that mark every beat with an attack, so that the pulse is heard without drums; and those that need help.
STEADY_CHORDS: Sequence[Pattern] = (pulsed, broken, arpeggio, stabs)
LOOSE_CHORDS: Sequence[Pattern] = (held, offbeats)
CALM_BASS: Sequence[Pattern] = (bass_roots, bass_beats, bass_fifths, bass_walking)
LIVELY_BASS: Sequence[Pattern] = (bass_beats, bass_eighths, bass_octaves, bass_gallop)
STEADY_BASS: Sequence[Pattern] = (bass_beats, bass_fifths, bass_walking)


def _accent(tick: int) -> float:
    return 1.0 if tick % (4 * TICKS_PER_BEAT) == 0 else 0.8 if tick % TICKS_PER_BEAT == 0 else 0.6


def _bass(harmony: Harmony, low: int, length: int, intervals: Sequence[int]) -> list[Note]:
    root = low + (harmony.chord.root - low) % 12
    ticks = range(harmony.start_ticks, harmony.end_ticks, length)
    return [
        Note(tick, min(length, harmony.end_ticks - tick), root + intervals[count % len(intervals)], _accent(tick))
        for count, tick in enumerate(ticks)
    ]
