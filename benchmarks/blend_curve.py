"""Draws how a blend's selector learns on planted pairs: the validations of one or more runs, with bars and chance.

    .venv/bin/python benchmarks/blend_curve.py correlation=out/blend-planted pooled=out/blend-planted-pooled \\
        -o docs/images/blend-learning.png

Each argument is a name and the folder of a run, which holds metrics.csv. Chance is what windows drawn evenly among all
that fit would give on the same held-out pairs (`--valid-pairs` of them): the truth is drawn by seed, so no audio is
needed. What was read is printed as JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hemiola.audio.picture import save
from hemiola.blend.config import BlendConfig
from hemiola.codec.config import ENCODEC_24KHZ
from hemiola.train.blend_watch import LAG_WITHIN_SECONDS, TEMPO_WITHIN
from hemiola.train.pairs import Stretch
from hemiola.train.planted import Planted, draw, evaluate_windows

LAG, TEMPO = "valid/lag_median_seconds", "valid/tempo_right"
TEMPO_BAR = 0.8
COLOURS = ("#1f77b4", "#d9730d", "#4c9f70", "#8e5ea2")
GREY = "0.45"
SECONDS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10)  # labelled on the axis of lags
DRAWS = 100  # windows drawn for each held-out pair


@dataclass(frozen=True)
class Curve:
    """What the validations of a run found: steps that were done, and at each the median lag error and tempo share."""

    name: str
    steps: tuple[int, ...]
    lags: tuple[float, ...]
    tempi: tuple[float, ...]


def read(argument: str) -> Curve:
    """A curve of `name=folder`; raises SystemExit with one line where the folder holds none."""
    name, equals, folder = argument.partition("=")
    path = Path(folder if equals else name) / "metrics.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get(LAG)]
    except OSError as error:
        raise SystemExit(f"{path} cannot be read: {error.strerror}") from None
    if not rows:
        raise SystemExit(f"{path} has no column {LAG}: the run validated no planted pairs")
    # A row is named by the step that was made last, counted from 0.
    columns = ([int(row["step"]) + 1 for row in rows], *([float(row[key]) for row in rows] for key in (LAG, TEMPO)))
    return Curve(name if equals else path.parent.name, *(tuple(each) for each in columns))


def chance(pairs: int) -> tuple[float, float]:
    """Median lag error in seconds and share of tempi that are right, of windows drawn evenly among those that fit."""
    wanted, config, rng = Planted(pairs=1, valid_pairs=pairs), BlendConfig(), np.random.default_rng(0)
    errors = []
    for index in range(pairs):
        planting = draw(wanted, "valid", index)
        places = (planting.ratio, planting.input_start, planting.target_start, wanted.stretch_seconds)
        truth = Stretch(*(float(each) for each in places))
        for _ in range(DRAWS):
            # As in the lattice: what the two ratios differ by is drawn, and they meet in the middle.
            half = rng.uniform(-1, 1) * math.log(config.ratio_limit) / 2
            window = [
                part for ratio in (math.exp(half), math.exp(-half)) for part in (_start(config, ratio, rng), ratio)
            ]
            found = evaluate_windows(truth, *window, frames=config.output_frames, timebase=ENCODEC_24KHZ.timebase)
            errors.append(found)
    lags, tempi = zip(*errors)
    return median(lags), float(np.mean(np.array(tempi) <= TEMPO_WITHIN))


def _start(config: BlendConfig, ratio: float, rng: np.random.Generator) -> float:
    return rng.random() * (config.clip_frames - 1 - ratio * (config.output_frames - 1))


def draw_curves(path: Path, curves: list[Curve], by_chance: tuple[float, float]) -> None:
    figure = Figure(figsize=(10, 6.5), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for curve, colour in zip(curves, COLOURS):
        line = {"color": colour, "marker": "o", "markersize": 3, "linewidth": 1.6}
        above.plot(curve.steps, curve.lags, label=curve.name, **line)
        below.plot(curve.steps, [100 * share for share in curve.tempi], **line)
    _level(above, LAG_WITHIN_SECONDS, f"bar: {LAG_WITHIN_SECONDS} s", "--")
    _level(above, by_chance[0], f"chance: {by_chance[0]:.1f} s", ":")
    _level(below, 100 * TEMPO_BAR, f"bar: {TEMPO_BAR:.0%}", "--")
    _level(below, 100 * by_chance[1], f"chance: {by_chance[1]:.0%}", ":")
    above.set_yscale("log")
    above.set_yticks(SECONDS, [f"{each:g}" for each in SECONDS])
    above.minorticks_off()
    highest = max(by_chance[0], *(each for curve in curves for each in curve.lags))
    lowest = min(LAG_WITHIN_SECONDS, *(each for curve in curves for each in curve.lags))
    above.set_ylim(lowest / 1.5, highest * 1.5)
    above.set_ylabel("median lag error (s)")
    below.set_ylabel(f"tempi within {TEMPO_WITHIN:.0%} (% of windows)")
    below.set_ylim(0, 100)
    below.set_xlabel("training steps")
    below.set_xlim(0, max(step for curve in curves for step in curve.steps))
    above.set_title("What the selector finds on held-out planted pairs", loc="left", fontweight="bold")
    figure.legend(loc="outside lower center", ncols=len(curves), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)


def _level(axes: Any, value: float, text: str, style: str) -> None:
    axes.axhline(value, color=GREY, linestyle=style, linewidth=1)
    axes.annotate(text, (1, value), (6, 0), ("axes fraction", "data"), "offset points", va="center", color=GREY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="name=folder of a run, or the folder alone")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images/blend-learning.png"))
    parser.add_argument("--valid-pairs", type=int, default=24, help="held-out pairs that chance is told of")
    wanted = parser.parse_args()
    curves = [read(each) for each in wanted.runs]
    by_chance = chance(wanted.valid_pairs)
    draw_curves(wanted.output, curves, by_chance)
    told = {
        c.name: {"steps": c.steps[-1], "lag_median_seconds": c.lags[-1], "tempo_right": c.tempi[-1]} for c in curves
    }
    told["chance"] = {"lag_median_seconds": round(by_chance[0], 2), "tempo_right": round(by_chance[1], 3)}
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
