"""Evaluation: whether a model plays what captions of unseen music ask for, with chance and ceiling beside."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemiola.errors import InputError
from hemiola.synth.captions import describe, lead_named
from hemiola.synth.harmony import named_key
from hemiola.synth.plan import plan
from hemiola.synth.render import render
from hemiola.synth.score import Score
from hemiola.synth.seeds import split_seed, stream
from hemiola.timebase import Seconds
from hemiola.train.listening import Heard, listen, tempo_matches

Audio = NDArray[Any]
Progress = Callable[[int, int], None]

_TEMPO = re.compile(r"\b(\d+) (bpm|beats per minute)\b", re.IGNORECASE)
_NO_DRUMS = re.compile(r"\b(no|without) (drums|percussion)\b", re.IGNORECASE)
_DRUMS = re.compile(r"\b(drums?|beat|percussion)\b", re.IGNORECASE)
# "in a minor key" names no tonic: what follows the mode tells it from "in A minor".
_KEY = re.compile(r"\b([A-G])(#|b| sharp| flat)? (major|minor)\b(?! key)", re.IGNORECASE)
_MODE = re.compile(r"\b(major|minor)\b", re.IGNORECASE)
_ACCIDENTALS = {"": "", "#": "#", "b": "b", " sharp": "#", " flat": "b"}

# A piece counts as silent when more than this share of it is below -60 dB, as clipped when more than this share of its
# samples is at full scale.
_SILENT_SHARE, _CLIPPED_SHARE = 0.25, 1e-4


@dataclass(frozen=True)
class Asked:
    """What a caption states; None where it says nothing."""

    tempo_bpm: int | None = None
    drums: bool | None = None
    key: str | None = None
    mode: str | None = None
    lead: str | None = None


@dataclass(frozen=True)
class Trial:
    """A held-out piece: its number in the test split, its seed, its caption and what that asks for."""

    index: int
    seed: int
    caption: str
    asked: Asked


@dataclass(frozen=True)
class Figure:
    """How many of the pieces that were asked for something got it; the interval is Wilson's, 95 %.

    `chance` is the share that is right when each piece is held against every other piece's caption: what this model
    would reach if it did not read. `ceiling` is what the same ears find right in the true music of the same captions.
    """

    right: int
    count: int
    chance: float | None
    ceiling: float | None

    @property
    def share(self) -> float | None:
        """Right of all that were asked; None when none was."""
        return self.right / self.count if self.count else None

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        return {**asdict(self), "share": self.share, "interval": wilson(self.right, self.count)}


@dataclass(frozen=True)
class Judgement:
    """One question: which of a caption's statements it needs, and whether what was heard answers it."""

    states: Callable[[Asked], bool]
    right: Callable[[Asked, Heard], bool]


def _tempo_within(tolerance: float, octaves: bool) -> Judgement:
    return Judgement(
        lambda asked: asked.tempo_bpm is not None,
        lambda asked, heard: tempo_matches(heard.tempo_bpm, asked.tempo_bpm or 0, tolerance, octaves=octaves),
    )


JUDGEMENTS: Mapping[str, Judgement] = {
    "tempo_within_8_percent": _tempo_within(0.08, True),
    "tempo_within_4_percent": _tempo_within(0.04, True),
    "tempo_within_8_percent_no_octaves": _tempo_within(0.08, False),
    "tempo_within_4_percent_no_octaves": _tempo_within(0.04, False),
    "drums": Judgement(lambda asked: asked.drums is not None, lambda asked, heard: heard.drums == asked.drums),
    "drums_where_asked_for": Judgement(lambda asked: asked.drums is True, lambda asked, heard: heard.drums),
    "no_drums_where_refused": Judgement(lambda asked: asked.drums is False, lambda asked, heard: not heard.drums),
    "key_and_mode": Judgement(
        lambda asked: asked.key is not None,
        lambda asked, heard: (heard.key, heard.mode) == (asked.key, asked.mode),
    ),
    "mode": Judgement(lambda asked: asked.mode is not None, lambda asked, heard: heard.mode == asked.mode),
    "instrument": Judgement(lambda asked: asked.lead is not None, lambda asked, heard: heard.lead == asked.lead),
}
FLAWS: Mapping[str, Callable[[Heard], bool]] = {
    "silent": lambda heard: heard.silent_share > _SILENT_SHARE,
    "clipped": lambda heard: heard.clipped_share > _CLIPPED_SHARE,
}


def asked_in(caption: str) -> Asked:
    """What a caption states about tempo, drums, key and mode, and the instrument that it names first."""
    tempo, key, mode = _TEMPO.search(caption), _KEY.search(caption), _MODE.search(caption)
    drums = False if _NO_DRUMS.search(caption) else True if _DRUMS.search(caption) else None
    return Asked(
        tempo_bpm=int(tempo[1]) if tempo else None,
        drums=drums,
        key=named_key(key[1] + _ACCIDENTALS[(key[2] or "").lower()]) if key else None,
        mode=mode[1].lower() if mode else None,
        lead=lead_named(caption),
    )


def held_out(count: int, seconds: Seconds) -> list[Trial]:
    """The first `count` captions of the test split, which no training sees; nothing is rendered."""
    if count < 1:
        raise InputError(f"an evaluation needs captions, not {count}: give --captions 1 or more")
    seeds = [split_seed("test", index) for index in range(count)]
    captions = [describe(plan(seed, seconds), stream(seed, "caption")) for seed in seeds]
    return [Trial(index, *pair, asked_in(pair[1])) for index, pair in enumerate(zip(seeds, captions))]


def true_music(seed: int, seconds: Seconds, sample_rate: int, channels: int = 1) -> tuple[Score, Audio]:
    """The piece that a seed's caption describes: its score, and float32 [channels, samples]."""
    score = plan(seed, seconds)
    return score, render(score, sample_rate=sample_rate, channels=channels)


def listen_to(
    trials: Sequence[Trial],
    make: Callable[[Sequence[Trial]], Sequence[Audio]],
    sample_rate: int,
    *,
    batch: int = 10,
    progress: Progress | None = None,
) -> list[Heard]:
    """What is heard in the audio that `make` gives for trials, `batch` of them at a time."""
    heard: list[Heard] = []
    for start in range(0, len(trials), batch):
        heard += [listen(audio, sample_rate) for audio in make(trials[start : start + batch])]
        if progress:
            progress(len(heard), len(trials))
    return heard


def figures(trials: Sequence[Trial], heard: Sequence[Heard], truth: Sequence[Heard]) -> dict[str, Figure]:
    """Every judgement over the trials whose captions state it, and the share of pieces with each flaw."""
    judged = {name: _judged(judgement, trials, heard, truth) for name, judgement in JUDGEMENTS.items()}
    for name, flawed in FLAWS.items():
        found, at_best = (sum(map(flawed, each)) for each in (heard, truth))
        judged[name] = Figure(found, len(heard), None, at_best / len(truth))
    return judged


def _judged(judgement: Judgement, trials: Sequence[Trial], heard: Sequence[Heard], truth: Sequence[Heard]) -> Figure:
    places = [place for place, trial in enumerate(trials) if judgement.states(trial.asked)]
    asked = [trials[place].asked for place in places]
    answers = [heard[place] for place in places]
    right = sum(map(judgement.right, asked, answers))
    best = sum(judgement.right(trials[place].asked, truth[place]) for place in places)
    return Figure(right, len(places), chance(judgement.right, asked, answers), best / len(places) if places else None)


def chance(right: Callable[[Asked, Heard], bool], asked: Sequence[Asked], heard: Sequence[Heard]) -> float | None:
    """The share that is right when each caption is held against every other caption's piece; None below two."""
    pairs = [(one, other) for place, one in enumerate(asked) for at, other in enumerate(heard) if at != place]
    return float(np.mean([right(*pair) for pair in pairs])) if pairs else None


def wilson(right: int, count: int) -> tuple[float, float] | None:
    """The 95 % interval of a share, by Wilson's score (1927)."""
    if not count:
        return None
    z = 1.959964
    center = (right + z * z / 2) / (count + z * z)
    spread = z * math.sqrt(right * (count - right) / count + z * z / 4) / (count + z * z)
    return max(0.0, center - spread), min(1.0, center + spread)


def rows(trials: Sequence[Trial], heard: Sequence[Heard], truth: Sequence[Heard]) -> list[dict[str, Any]]:
    """Every piece with what was asked, what was heard, what was heard in the true music, and what was right."""
    return [
        {
            **asdict(trial),
            "heard": asdict(one),
            "heard_in_truth": asdict(best),
            "right": {
                name: judgement.right(trial.asked, one)
                for name, judgement in JUDGEMENTS.items()
                if judgement.states(trial.asked)
            },
        }
        for trial, one, best in zip(trials, heard, truth)
    ]
