"""A passage that was composed, beside the two windows that it was made from: at one clock, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemiola.audio.overview import Overview, glance
from hemiola.blend import scores
from hemiola.timebase import Timebase

Array = NDArray[Any]


@dataclass(frozen=True)
class Span:
    """Where a window lies in its clip, in seconds, and how many of the clip's frames were read for one frame."""

    start_seconds: float
    end_seconds: float
    ratio: float

    @classmethod
    def of(cls, start: float, ratio: float, frames: int, clock: Timebase) -> Span:
        """From a start in frames of the clip; it ends with the last frame that was read for one of its `frames`."""
        return cls(clock.moment(start), clock.moment(start + (frames - 1) * ratio + 1), ratio)


@dataclass(frozen=True, eq=False)
class Passage:
    """One passage of a blend.

    output, input_window, target_window: float32 [1, samples], the windows as the codec plays them at the passage's own
    tempo. input, target: where these lie. components: weights [6, frames] of what is named in scores.COMPONENTS.
    """

    output: NDArray[np.float32]
    input_window: NDArray[np.float32]
    target_window: NDArray[np.float32]
    input: Span
    target: Span
    components: Array
    sample_rate: int

    @cached_property
    def overviews(self) -> tuple[Overview, Overview, Overview]:
        """Of input window, output and target window."""
        first, middle, last = (
            glance(each, self.sample_rate) for each in (self.input_window, self.output, self.target_window)
        )
        return first, middle, last

    @cached_property
    def copy_scores(self) -> dict[str, float]:
        """How much it copies the windows of "input" and "target"."""
        input_window, output, target_window = self.overviews
        sources = {"input": input_window, "target": target_window}
        return {name: scores.copy_score(output, source) for name, source in sources.items()}

    def row(self) -> dict[str, float | str]:
        """What there is to tell, by name: seconds, ratios, levels, copy scores and mean component weights."""
        places = {
            f"{name}_{key}": value
            for name, span in (("input", self.input), ("target", self.target))
            for key, value in vars(span).items()
        }
        names = ("input", "output", "target")
        levels = {f"{name}_rms": overview.rms for name, overview in zip(names, self.overviews, strict=True)}
        return {**places, **levels, **self.scores}

    @property
    def scores(self) -> dict[str, float | str]:
        """Copy scores of both sources, which of them it copies, and mean component weights, by name."""
        copying = {f"copy_{name}": score for name, score in self.copy_scores.items()}
        verdict = {"copies": scores.copied(self.copy_scores)}
        return {**copying, **verdict, **scores.component_means(self.components)}


def diversity(passages: Sequence[Passage]) -> float:
    """The mean window diversity of both clips, of all passages that were made of them."""
    sides = [[each.input for each in passages], [each.target for each in passages]]
    bounds = [np.array([(span.start_seconds, span.end_seconds) for span in spans]).T for spans in sides]
    return float(np.mean([scores.window_diversity(starts, ends) for starts, ends in bounds]))
