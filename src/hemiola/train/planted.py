"""Planted pairs: composed clips of which the target holds a stretch of the input, at a lag and a tempo that are known.

The input is a piece. The target is another piece, in which a stretch gives way to the input's notes: played at another
tempo, in another room, a little louder or softer, and with noise. Everything is drawn by seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemiola.audio import io
from hemiola.codec.config import EncodecConfig
from hemiola.errors import InputError
from hemiola.synth.plan import plan
from hemiola.synth.render import render
from hemiola.synth.seeds import split_seed
from hemiola.timebase import Timebase, exact_seconds
from hemiola.train import pairs as datasets
from hemiola.train.pairs import SPLITS, Cut, Pair, Stretch, clip_path
from hemiola.train.pools import spread

_FADE_SECONDS = "0.05"
_ROOMS = (0.05, 0.3)
_GAIN_DB = 3.0
# Tells these draws from those that the same seed makes elsewhere.
_DRAWS = 1685
# Tempi and places are drawn in steps this fine, so that they are exact on any clock.
_STEPS = 10_000


@dataclass(frozen=True)
class Planted:
    """How many pairs to compose for training and for validation, and in which form.

    `stretch_seconds` of the input stand in the target, played between `slowest` and `fastest` times as fast, with white
    noise `noise_db` below them.
    """

    pairs: int
    valid_pairs: int = 32
    clip_seconds: float = 24.0
    stretch_seconds: float = 14.0
    slowest: float = 0.8
    fastest: float = 1.25
    noise_db: float = 20.0
    sample_rate: int = EncodecConfig.sampling_rate

    def __post_init__(self) -> None:
        if not 0 < self.slowest <= self.fastest:
            raise InputError(f"slowest ({self.slowest}) must be above 0, and at most fastest ({self.fastest})")
        longest = self.stretch_seconds / min(self.slowest, 1)
        if not self.stretch_seconds > 0 or longest > self.clip_seconds:
            raise InputError(f"a stretch of up to {longest:g} s does not fit into a clip of {self.clip_seconds:g} s")


@dataclass(frozen=True)
class Planting:
    """What is drawn for a pair: two seeds, the seconds at which the stretch begins in either, tempo, gain and room."""

    input_seed: int
    target_seed: int
    input_start: Fraction
    target_start: Fraction
    ratio: Fraction
    gain_db: float
    room: float


def fill(
    folder: Path, wanted: Planted, *, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> datasets.PairFolder:
    """Compose what is not there yet into a dataset of pairs, and return it; `progress` counts pairs.

    Raises InputError where the folder holds a dataset that was made otherwise.
    """
    form = {name: value for name, value in asdict(wanted).items() if name not in ("pairs", "valid_pairs")}
    datasets.prepare(folder, {"made": "planted", **form})
    jobs = [
        (Path(folder), split, index, wanted)
        for split, count in zip(SPLITS, (wanted.pairs, wanted.valid_pairs))
        for index in range(count)
    ]
    made = list(spread(_pair, jobs, workers, progress))
    datasets.write(folder, (cut for _, cuts in made for cut in cuts), (pair for pair, _ in made))
    return datasets.read(folder)


def draw(wanted: Planted, split: str, index: int) -> Planting:
    """What pair `index` of a split is to be; the tempo is drawn evenly on a logarithmic scale, the places evenly."""
    input_seed, target_seed = split_seed(split, 2 * index), split_seed(split, 2 * index + 1)
    rng = np.random.default_rng((input_seed, _DRAWS))
    ratio = _stepped(math.exp(rng.uniform(math.log(wanted.slowest), math.log(wanted.fastest))))
    clip, stretch = exact_seconds(wanted.clip_seconds), exact_seconds(wanted.stretch_seconds)
    starts = [max(Fraction(0), clip - length) * _stepped(rng.random()) for length in (stretch, stretch / ratio)]
    gain_db, room = rng.uniform(-_GAIN_DB, _GAIN_DB), rng.uniform(*_ROOMS)
    return Planting(input_seed, target_seed, starts[0], starts[1], ratio, float(gain_db), float(room))


def compose(wanted: Planted, planting: Planting) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The input and the target of a planting, float32 [1, samples] each."""
    seconds = exact_seconds(wanted.clip_seconds)
    score = plan(planting.input_seed, seconds)
    target = render(plan(planting.target_seed, seconds), sample_rate=wanted.sample_rate)
    played = render(replace(score, room=planting.room).played(planting.ratio), sample_rate=wanted.sample_rate)
    clock = Timebase(wanted.sample_rate, 1)
    length = clock.samples(exact_seconds(wanted.stretch_seconds) / planting.ratio)
    start = min(clock.samples(planting.input_start / planting.ratio), played.shape[1] - length)
    stretch = _disturbed(played[:, start : start + length], wanted.noise_db, planting)
    _plant(target, stretch, min(clock.samples(planting.target_start), target.shape[1] - length), clock)
    return render(score, sample_rate=wanted.sample_rate), target


def _disturbed(stretch: NDArray[np.float32], noise_db: float, planting: Planting) -> NDArray[np.float32]:
    """The stretch at its own gain with white noise, `noise_db` below its RMS."""
    rng = np.random.default_rng((planting.target_seed, _DRAWS))
    rms = math.sqrt(float(np.mean(np.square(stretch, dtype=np.float64))))
    noise = rng.standard_normal(stretch.shape, dtype=np.float32) * np.float32(rms * 10 ** (-noise_db / 20))
    return (stretch + noise) * np.float32(10 ** (planting.gain_db / 20))


def _plant(target: NDArray[np.float32], stretch: NDArray[np.float32], start: int, clock: Timebase) -> None:
    """Put the stretch in the place of what the target has there, with cross-fades of even power inside its ends."""
    length = stretch.shape[1]
    fade = min(clock.samples(_FADE_SECONDS), length // 2)
    rise = np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
    inside = np.concatenate((rise, np.ones(length - 2 * fade, np.float32), rise[::-1]))
    outside = np.concatenate((rise[::-1], np.zeros(length - 2 * fade, np.float32), rise))
    place = slice(start, start + length)
    target[:, place] = target[:, place] * outside + stretch * inside


def _pair(job: tuple[Path, str, int, Planted]) -> tuple[Pair, tuple[Cut, Cut]]:
    """One pair, whose clips are composed where one of them is missing."""
    folder, split, index, wanted = job
    planting = draw(wanted, split, index)
    shown, heard = (f"{split}-{index:06d}-{role}" for role in ("input", "target"))
    paths = [clip_path(folder, name) for name in (shown, heard)]
    if not all(path.exists() for path in paths):
        for path, samples in zip(paths, compose(wanted, planting)):
            io.write(path, samples, wanted.sample_rate, force=True)
    length = Timebase(wanted.sample_rate, 1).samples(exact_seconds(wanted.clip_seconds))

    def cut(name: str, seed: int) -> Cut:
        return Cut(name, name, split, f"seed {seed}", 0, length, wanted.sample_rate)

    cuts = cut(shown, planting.input_seed), cut(heard, planting.target_seed)
    return Pair(split, shown, heard, _truth(wanted, planting)), cuts


def _truth(wanted: Planted, planting: Planting) -> Stretch:
    return Stretch(
        ratio=float(planting.ratio),
        input_start_seconds=float(planting.input_start),
        target_start_seconds=float(planting.target_start),
        input_seconds=wanted.stretch_seconds,
    )


def _stepped(number: float) -> Fraction:
    return Fraction(round(number * _STEPS), _STEPS)


def evaluate_windows(
    truth: Stretch,
    input_start: float,
    input_ratio: float,
    target_start: float,
    target_ratio: float,
    *,
    frames: int,
    timebase: Timebase,
) -> tuple[float, float]:
    """How far two windows are from showing the same music: (lag error in seconds, error of the tempo ratio).

    Starts are in frames of the clips, ratios in source frames a frame of the window, of which there are `frames`. The
    lag error is the distance from the middle of the input's window to the input time that is played in the middle of
    the target's; the other is |log((input_ratio / target_ratio) / ratio)|.
    """
    middle = (frames - 1) / 2
    heard, shown = (
        timebase.moment(start + ratio * middle)
        for start, ratio in ((target_start, target_ratio), (input_start, input_ratio))
    )
    wanted = truth.input_start_seconds + (heard - truth.target_start_seconds) * truth.ratio
    return abs(wanted - shown), abs(math.log(input_ratio / target_ratio / truth.ratio))
