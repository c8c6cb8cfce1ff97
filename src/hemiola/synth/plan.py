"""The plan of a piece: every choice drawn by the seed, and the score that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from hemiola.errors import InputError
from hemiola.synth import accompaniment, grooves, instruments, melody
from hemiola.synth.harmony import KEYS, MODES, Scale, draw_progression, named_key
from hemiola.synth.score import TICKS_PER_BAR, TICKS_PER_BEAT, Brief, Harmony, Hit, Note, Part, Score
from hemiola.synth.seeds import stream
from hemiola.timebase import Seconds, exact_seconds

SLOWEST_BPM, FASTEST_BPM = 60, 160
_WHITE = np.array([1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1])
_KEY_WEIGHTS = (1 + 3 * _WHITE) / np.sum(1 + 3 * _WHITE)  # keys without accidentals in their name come more often
_DRUMS_SHARE = 0.65
_LATEST_MS = 8
_LEAST_FRAME_RATE = 10
_BASS_LOW = 33
# How loud each bar of a phrase is played.
DYNAMICS = {"even": (1.0, 1.0, 1.0, 1.0), "building": (0.55, 0.7, 0.85, 1.0), "fading": (1.0, 0.85, 0.7, 0.55)}
_UNEVEN_SHARE = 0.15


@dataclass(frozen=True)
class _Choices:
    """What the seed and the brief settle before a note is written."""

    tempo_bpm: Fraction
    named_bpm: int
    key: str
    mode: str
    lead: str
    kit: str | None
    chords: str
    bass: str | None
    energy: str
    dynamics: str
    swing_ticks: int
    room: float


def plan(seed: int, seconds: Seconds = 8, brief: Brief | None = None) -> Score:
    """A score of `seconds` seconds; what the brief leaves open is drawn by the seed.

    A fixed field does not shift the other draws. Raises InputError for an impossible brief, seed or duration.
    """
    length = _duration(seconds)
    brief = checked(brief or Brief())
    choices = _choose(stream(seed, "attributes"), brief)
    rng = stream(seed, "music")
    scale = Scale(choices.key, choices.mode)
    harmonies = _harmonise(scale, length, choices.tempo_bpm, rng)
    score = Score(
        seed=seed,
        seconds=length,
        tempo_bpm=choices.tempo_bpm,
        named_bpm=choices.named_bpm,
        key=choices.key,
        mode=choices.mode,
        energy=choices.energy,
        dynamics=choices.dynamics,
        swing_ticks=choices.swing_ticks,
        room=choices.room,
        harmonies=harmonies,
        parts=_write_parts(choices, scale, harmonies, rng),
        kit=choices.kit,
        hits=tuple(grooves.write_drums(choices.kit, harmonies[-1].end_ticks, rng)) if choices.kit else (),
    )
    return _played(score, stream(seed, "timing"), latest_ms=0 if brief.strict else _LATEST_MS)


def checked(brief: Brief) -> Brief:
    """The brief in house spelling. Raises InputError when a field cannot be had."""
    if brief.tempo_bpm is not None and brief.tempo_bpm not in range(SLOWEST_BPM, FASTEST_BPM + 1):
        raise InputError(f"tempo must be a whole number of bpm from {SLOWEST_BPM} to {FASTEST_BPM}: {brief.tempo_bpm}")
    for field, value, known in (
        ("mode", brief.mode, MODES),
        ("lead", brief.lead, (*instruments.LEADS, *instruments.GUESTS)),
        ("kit", brief.kit, grooves.KITS),
    ):
        if value is not None and value not in known:
            raise InputError(f"no {field} is called {value!r}: choose one of {', '.join(known)}")
    if brief.kit is not None and brief.drums is False:
        raise InputError(f"a brief without drums cannot ask for the {brief.kit} kit: leave out one of the two")
    if brief.frame_rate is not None and brief.frame_rate < _LEAST_FRAME_RATE:
        raise InputError(f"beats of whole frames need {_LEAST_FRAME_RATE} frames a second or more: {brief.frame_rate}")
    return brief if brief.key is None else replace(brief, key=named_key(brief.key))


def _duration(seconds: Seconds) -> Fraction:
    try:
        length = exact_seconds(seconds)
    except ValueError as error:
        raise InputError(str(error)) from None
    if length == 0:
        raise InputError("a piece of 0 seconds has no music in it: ask for a longer one")
    return length


def _choose(rng: np.random.Generator, brief: Brief) -> _Choices:
    """All draws are made whether or not the brief fixes them, so fixing one leaves the others as they were."""
    tempo = int(rng.integers(SLOWEST_BPM, FASTEST_BPM + 1))
    tempo = tempo if brief.tempo_bpm is None else brief.tempo_bpm
    exact = Fraction(tempo)
    if brief.frame_rate:
        exact = Fraction(60 * brief.frame_rate, round(Fraction(60 * brief.frame_rate, tempo)))
    key, mode = str(rng.choice(KEYS, p=_KEY_WEIGHTS)), str(rng.choice(MODES))
    lead, kit = str(rng.choice(instruments.LEADS)), str(rng.choice(grooves.KITS))
    drums = bool(rng.random() < _DRUMS_SHARE)
    drums = (drums or brief.kit is not None) if brief.drums is None else brief.drums
    lead = brief.lead or lead
    chords = _choose_chords(lead, rng)
    bass = str(rng.choice(instruments.BASSES)) if rng.random() < 0.75 else None
    calm_share = float(np.interp(tempo, (80, 130), (0.85, 0.15)))
    energy = "calm" if rng.random() < calm_share else "lively"
    swing = int(rng.random() < 0.2)
    room = float(rng.uniform(0.05, 0.2))
    uneven = str(rng.choice(("building", "fading")))
    return _Choices(
        tempo_bpm=exact,
        named_bpm=tempo,
        key=brief.key or key,
        mode=brief.mode or mode,
        lead=lead,
        kit=(brief.kit or kit) if drums else None,
        chords=chords,
        bass=bass or ("bass" if chords in instruments.SLOW_TO_SPEAK else None),
        energy=energy,
        dynamics=uneven if rng.random() < _UNEVEN_SHARE else "even",
        swing_ticks=0 if brief.strict else swing,
        room=room,
    )


def _choose_chords(lead: str, rng: np.random.Generator) -> str:
    """Who plays the chords: another instrument, or the lead itself where one player has two hands."""
    others = [name for name in instruments.CHORDS if name != lead]
    other, alone = str(rng.choice(others)), rng.random() < 0.5
    return lead if alone and lead in instruments.TWO_HANDED else other


def _harmonise(scale: Scale, seconds: Fraction, tempo_bpm: Fraction, rng: np.random.Generator) -> tuple[Harmony, ...]:
    """Chords until the end: a bar each, or half a bar in slow pieces, so that some harmony passes in a few seconds."""
    progression = draw_progression(scale, rng)
    length = TICKS_PER_BEAT * (4 if tempo_bpm >= 96 else 2)
    ticks = seconds * tempo_bpm * TICKS_PER_BEAT / 60
    count = -(-ticks // length)
    return tuple(
        Harmony(place * length, (place + 1) * length, progression[place % len(progression)]) for place in range(count)
    )


def _write_parts(
    choices: _Choices, scale: Scale, harmonies: Sequence[Harmony], rng: np.random.Generator
) -> tuple[Part, ...]:
    compass = instruments.INSTRUMENTS[choices.lead].compass
    parts = [Part("lead", choices.lead, tuple(melody.write_melody(scale, harmonies, choices.energy, compass, rng)))]
    patterns = _chord_patterns(choices)
    pattern = patterns[int(rng.integers(len(patterns)))]
    low = instruments.INSTRUMENTS[choices.chords].chord_low
    low -= 12 if choices.chords == choices.lead else 0
    parts.append(Part("chords", choices.chords, _each(pattern, harmonies, low)))
    if choices.bass:
        bass = _bass_patterns(choices)
        parts.append(Part("bass", choices.bass, _each(bass[int(rng.integers(len(bass)))], harmonies, _BASS_LOW)))
    return tuple(parts)


def _each(pattern: accompaniment.Pattern, harmonies: Sequence[Harmony], low: int) -> tuple[Note, ...]:
    return tuple(note for harmony in harmonies for note in pattern(harmony, low))


def _chord_patterns(choices: _Choices) -> Sequence[accompaniment.Pattern]:
    if choices.chords in instruments.SLOW_TO_SPEAK:
        return (accompaniment.held,)
    if choices.kit is None:
        return accompaniment.STEADY_CHORDS
    return (*accompaniment.STEADY_CHORDS, *accompaniment.LOOSE_CHORDS)


def _bass_patterns(choices: _Choices) -> Sequence[accompaniment.Pattern]:
    if choices.kit is None:
        return accompaniment.STEADY_BASS
    return accompaniment.CALM_BASS if choices.energy == "calm" else accompaniment.LIVELY_BASS


def _played(score: Score, rng: np.random.Generator, latest_ms: int) -> Score:
    """The score as people play it: light swing, a little early or late, louder or softer, and nothing after the end."""

    def swung(ticks: int) -> int:
        return ticks + score.swing_ticks * (ticks % TICKS_PER_BEAT == TICKS_PER_BEAT // 2)

    def late(ticks: int) -> int:
        drift = int(np.clip(rng.normal(0, 2.5), -latest_ms, latest_ms))
        return max(drift, 0) if ticks == 0 else drift

    def loud(event: Note | Hit) -> float:
        bars = DYNAMICS[score.dynamics]
        return event.velocity * bars[event.start_ticks // TICKS_PER_BAR % len(bars)]

    def notes(part: Part) -> tuple[Note, ...]:
        drifts = {tick: late(tick) for tick in dict.fromkeys(note.start_ticks for note in part.notes)}
        return tuple(
            replace(note, start_ticks=swung(note.start_ticks), late_ms=drifts[note.start_ticks], velocity=loud(note))
            for note in part.notes
        )

    def heard(event: Note | Hit) -> bool:
        return score.when(event.start_ticks, event.late_ms) < score.seconds

    parts = (replace(part, notes=tuple(note for note in notes(part) if heard(note))) for part in score.parts)
    hits = (
        replace(hit, start_ticks=swung(hit.start_ticks), late_ms=late(hit.start_ticks), velocity=loud(hit))
        for hit in score.hits
    )
    return replace(score, parts=tuple(parts), hits=tuple(hit for hit in hits if heard(hit)))
