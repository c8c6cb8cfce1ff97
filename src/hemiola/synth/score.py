"""A score: who plays what and when, before any sound; and the truth that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from hemiola.synth.harmony import Chord

TICKS_PER_BEAT = 12  # fine enough for sixteenths (3), eighths (6) and triplets (4)
BEATS_PER_BAR = 4
TICKS_PER_BAR = TICKS_PER_BEAT * BEATS_PER_BAR


@dataclass(frozen=True)
class Brief:
    """What must be true of a piece; a field left None is drawn by the seed.

    With a `frame_rate`, the beat is brought to the nearest whole number of such frames, and the tempo with it: what
    repeats in the music then repeats in a codec's frames too. `strict` time has no swing, and nobody early or late.
    """

    tempo_bpm: int | None = None
    key: str | None = None
    mode: str | None = None
    lead: str | None = None
    drums: bool | None = None
    kit: str | None = None
    frame_rate: int | None = None
    strict: bool = False


@dataclass(frozen=True)
class Note:
    """One note: start and length in ticks, MIDI pitch, velocity (0 to 1], and how late it comes (negative: early)."""

    start_ticks: int
    length_ticks: int
    pitch: int
    velocity: float = 0.8
    late_ms: int = 0


@dataclass(frozen=True)
class Hit:
    """One stroke on a drum."""

    start_ticks: int
    drum: str
    velocity: float = 0.8
    late_ms: int = 0


@dataclass(frozen=True)
class Part:
    """The notes of one player: role is "lead", "chords" or "bass", instrument a name in `instruments.INSTRUMENTS`."""

    role: str
    instrument: str
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Harmony:
    """A chord and the ticks it lasts, [start, end)."""

    start_ticks: int
    end_ticks: int
    chord: Chord


@dataclass(frozen=True)
class Score:
    """A whole piece, planned: everything `render` and `describe` need. Events at or after `seconds` are not in it.

    `tempo_bpm` is exact; `named_bpm` is the whole number that a caption calls it, which a beat of whole frames may miss
    by some 2 %. `dynamics` is a name in `plan.DYNAMICS`. `speed` is how many times as fast as written it is played;
    `seconds` and `when` are those of the playing.
    """

    seed: int
    seconds: Fraction
    tempo_bpm: Fraction
    named_bpm: int
    key: str
    mode: str
    energy: str
    dynamics: str
    swing_ticks: int
    room: float
    harmonies: tuple[Harmony, ...]
    parts: tuple[Part, ...]
    kit: str | None
    hits: tuple[Hit, ...]
    speed: Fraction = Fraction(1)

    @property
    def played_bpm(self) -> int:
        """What a caption calls the tempo that is heard, in whole bpm."""
        return round(self.named_bpm * self.speed)

    @property
    def lead(self) -> str:
        """The instrument that plays the melody."""
        return self.parts[0].instrument

    @property
    def instruments(self) -> tuple[str, ...]:
        """Every pitched instrument once, lead first."""
        return tuple(dict.fromkeys(part.instrument for part in self.parts))

    def when(self, ticks: int, late_ms: int = 0) -> Fraction:
        """The moment of a tick, in seconds from the start."""
        written = Fraction(60 * ticks) / (TICKS_PER_BEAT * self.tempo_bpm) + Fraction(late_ms, 1000)
        return written / self.speed

    def played(self, speed: Fraction) -> Score:
        """The same notes, `speed` times as fast as now: every moment comes that much earlier, no pitch changes."""
        return replace(self, seconds=self.seconds / speed, speed=self.speed * speed)


@dataclass(frozen=True)
class ChordSpan:
    """A chord and the seconds it sounds, [start, end)."""

    start_seconds: float
    end_seconds: float
    name: str
    pitch_classes: tuple[int, ...]


@dataclass(frozen=True)
class Truth:
    """What is true of a piece. Times are seconds from its start, ascending, and lie inside it.

    `onset_seconds` holds every moment where a pitched note begins, `drum_onset_seconds` the strokes of each drum.
    """

    tempo_bpm: float
    key: str
    mode: str
    lead: str
    instruments: tuple[str, ...]
    drums: bool
    kit: str | None
    energy: str
    dynamics: str
    beat_seconds: tuple[float, ...]
    onset_seconds: tuple[float, ...]
    drum_onset_seconds: Mapping[str, tuple[float, ...]]
    chords: tuple[ChordSpan, ...]


def truth_of(score: Score) -> Truth:
    """The truth that a score implies, in seconds."""
    beats = range(0, score.harmonies[-1].end_ticks, TICKS_PER_BEAT)
    onsets = {(note.start_ticks, note.late_ms) for part in score.parts for note in part.notes}
    drums: dict[str, list[float]] = {}
    for hit in score.hits:
        drums.setdefault(hit.drum, []).append(float(score.when(hit.start_ticks, hit.late_ms)))
    return Truth(
        tempo_bpm=float(score.tempo_bpm * score.speed),
        key=score.key,
        mode=score.mode,
        lead=score.lead,
        instruments=score.instruments,
        drums=score.kit is not None,
        kit=score.kit,
        energy=score.energy,
        dynamics=score.dynamics,
        beat_seconds=tuple(float(score.when(tick)) for tick in beats if score.when(tick) < score.seconds),
        onset_seconds=tuple(sorted({float(score.when(*onset)) for onset in onsets})),
        drum_onset_seconds={drum: tuple(sorted(times)) for drum, times in drums.items()},
        chords=tuple(_span(score, harmony) for harmony in score.harmonies),
    )


def _span(score: Score, harmony: Harmony) -> ChordSpan:
    end = min(score.when(harmony.end_ticks), score.seconds)
    return ChordSpan(
        float(score.when(harmony.start_ticks)), float(end), harmony.chord.name, harmony.chord.pitch_classes
    )
