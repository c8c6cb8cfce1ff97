"""Keys, scales and chord progressions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hemiola.errors import InputError

KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MODES = ("major", "minor")
_ALIASES = {"Db": "C#", "D#": "Eb", "Gb": "F#", "G#": "Ab", "A#": "Bb", "Cb": "B", "B#": "C", "E#": "F", "Fb": "E"}
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_LEADING_TONE = 11

# Degrees of the scale, one chord each; none would be as much at home in the relative key. "5+" is the dominant of a
# minor key with its leading tone raised.
_PROGRESSIONS = {
    "major": ("1 5 6 4", "1 6 4 5", "1 4 5 1", "1 4 1 5", "1 5 4 1", "1 4 5 4", "1 5 1 4", "1 2 5 1"),
    "minor": ("1 6 5+ 1", "1 4 5+ 1", "1 7 6 5+", "1 6 4 5+", "1 4 1 5+", "1 6 7 1", "1 5+ 1 4", "1 4 7 1"),
}


@dataclass(frozen=True)
class Chord:
    """A triad: its name ("Am"), root and pitch classes (0 is C), root first."""

    name: str
    pitch_classes: tuple[int, ...]

    @property
    def root(self) -> int:
        """The root's pitch class, 0 for C to 11 for B."""
        return self.pitch_classes[0]


@dataclass(frozen=True)
class Scale:
    """Seven notes on a tonic."""

    key: str
    mode: str

    @property
    def tonic(self) -> int:
        """The tonic's pitch class, 0 for C to 11 for B."""
        return KEYS.index(self.key)

    def pitch(self, degree: int, chord: Chord | None = None) -> int:
        """MIDI pitch of a degree; 0 is the tonic in the octave above middle C. A raised dominant raises degree 6."""
        octave, step = divmod(degree, 7)
        interval = _SCALES[self.mode][step]
        if chord is not None and step == 6 and (self.tonic + _LEADING_TONE) % 12 in chord.pitch_classes:
            interval = _LEADING_TONE
        return 60 + self.tonic + interval + 12 * octave

    def triad(self, numeral: str) -> Chord:
        """The chord on a degree written "1" to "7", or "5+" for a major dominant in minor."""
        degree = int(numeral[0]) - 1
        classes = [(self.tonic + _SCALES[self.mode][(degree + third) % 7]) % 12 for third in (0, 2, 4)]
        if numeral.endswith("+"):
            classes[1] = (self.tonic + _LEADING_TONE) % 12
        third, fifth = (classes[1] - classes[0]) % 12, (classes[2] - classes[0]) % 12
        quality = "dim" if fifth == 6 else "m" if third == 3 else ""
        return Chord(KEYS[classes[0]] + quality, tuple(classes))


def named_key(name: str) -> str:
    """The house spelling of a key: "db" or "C#" -> "C#". Raises InputError for what is no key."""
    spelled = name[:1].upper() + name[1:].lower()
    spelled = _ALIASES.get(spelled, spelled)
    if spelled not in KEYS:
        raise InputError(f"no key is called {name!r}: choose one of {', '.join(KEYS)}")
    return spelled


def draw_progression(scale: Scale, rng: np.random.Generator) -> tuple[Chord, ...]:
    """Four chords that begin on the tonic."""
    choices = _PROGRESSIONS[scale.mode]
    return tuple(scale.triad(numeral) for numeral in choices[rng.integers(len(choices))].split())
