"""Drum grooves: a bar of sixteenths for each drum, and the fill that leads back."""

from __future__ import annotations

import numpy as np

from hemiola.synth.score import TICKS_PER_BAR, TICKS_PER_BEAT, Hit

_SIXTEENTH = TICKS_PER_BEAT // 4
_VELOCITY = {"X": 1.0, "x": 0.8, "o": 0.5}

# X loud, x plain, o soft. Each kit has grooves that suit it.
_GROOVES: dict[str, tuple[dict[str, str], ...]] = {
    "soft": (
        {"kick": "x.......x.......", "snare": "....o.......o...", "hat": "x...o...x...o..."},
        {"kick": "x.........x.....", "snare": "....o.......o...", "hat": "x.o.x.o.x.o.x.o."},
        {"kick": "x.....x.x.......", "snare": "....o.......o...", "hat": "x...x...x...x..."},
    ),
    "acoustic": (
        {"kick": "X.......X.......", "snare": "....X.......X...", "hat": "x.o.x.o.x.o.x.o."},
        {"kick": "X.......X.x.....", "snare": "....X.......X...", "hat": "x.x.x.x.x.x.x.x."},
        {"kick": "X.....x.X.......", "snare": "....X.......X..o", "hat": "x.o.x.o.x.o.x.o."},
        {"kick": "X.......X.....x.", "snare": "....X.......X...", "hat": "x...x...x...x..."},
    ),
    "electronic": (
        {"kick": "X.....x...x.....", "clap": "....X.......X...", "hat": "x.o.x.o.x.o.x.oo"},
        {"kick": "X..x....X.......", "clap": "....X.......X...", "hat": "xoooxoooxoooxooo"},
        {"kick": "X...X...X...X...", "clap": "....X.......X...", "hat": "o.x.o.x.o.x.o.x."},
    ),
    "driving": (
        {"kick": "X...X...X...X...", "snare": "....X.......X...", "hat": "x.X.x.X.x.X.x.X."},
        {"kick": "X...X...X...X...", "clap": "....X.......X...", "open": "..x...x...x...x."},
        {"kick": "X...X...X...X.x.", "snare": "....X.......X...", "hat": "X...X...X...X..."},
    ),
}
KITS = tuple(_GROOVES)
_FILLS = {
    "soft": "..........o.o...",
    "acoustic": "........x.xxXxXX",
    "electronic": "............XxXx",
    "driving": "........XxXxXXXX",
}
_BARS_PER_PHRASE = 4


def write_drums(kit: str, ticks: int, rng: np.random.Generator) -> list[Hit]:
    """Strokes for `ticks` ticks in one of the kit's grooves; every fourth bar ends in a fill."""
    grooves = _GROOVES[kit]
    groove = grooves[rng.integers(len(grooves))]
    fill = {**groove, "snare": _FILLS[kit], "tom": "".join("x" if c == "X" else "." for c in _FILLS[kit])}
    hits: list[Hit] = []
    for bar in range(-(-ticks // TICKS_PER_BAR)):
        pattern = fill if bar % _BARS_PER_PHRASE == _BARS_PER_PHRASE - 1 else groove
        hits += [hit for drum, strokes in pattern.items() for hit in _bar(drum, strokes, bar * TICKS_PER_BAR)]
    return sorted((hit for hit in hits if hit.start_ticks < ticks), key=lambda hit: hit.start_ticks)


def _bar(drum: str, strokes: str, start: int) -> list[Hit]:
    return [
        Hit(start + place * _SIXTEENTH, drum, _VELOCITY[stroke])
        for place, stroke in enumerate(strokes)
        if stroke != "."
    ]
