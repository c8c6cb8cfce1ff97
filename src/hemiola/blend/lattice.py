"""The lattice of choices: which windows of two clips can be heard side by side, and at which tempo. Plain numbers.

A cell is a window of the input and one of the target. Both are read at reciprocal ratios, so that two tempi meet in
the middle: with rho = input ratio / target ratio, the input is read at sqrt(rho), the target at 1 / sqrt(rho). Starts
stand on a grid of columns, `COLUMN_FRAMES` output frames apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemiola.blend.config import BlendConfig
from hemiola.errors import WeightsError

COLUMN_FRAMES = 8
APART_FRAMES = 48  # two pairs of windows differ by this much in one of the clips at least
RATIO_STEP = 0.04  # of the logarithm: neighbours drift by 0.2 s from the middle of a window of 10.7 s to its end

Array = NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """All cells of one ratio: `rows` starts of the input times `columns` starts of the target, in that order.

    The clips are read at every column's middle: `input_frames` and `target_frames`, positions in frames.
    """

    log_ratio: float
    input_ratio: float
    target_ratio: float
    input_frames: Array
    target_frames: Array
    rows: int
    columns: int


class Lattice:
    """The cells of a configuration, layer after layer, in one row of numbers.

    Raises WeightsError for windows of less than a column, and for clips in which they cannot lie apart.
    """

    def __init__(self, config: BlendConfig) -> None:
        self.window = config.output_frames // COLUMN_FRAMES
        self.frames = config.output_frames
        self.total = config.clip_frames
        steps = math.floor(math.log(config.ratio_limit) / RATIO_STEP + 1e-9)
        self.layers = [self._layer(RATIO_STEP * step) for step in range(-steps, steps + 1)]
        sizes = [layer.rows * layer.columns for layer in self.layers]
        self.first_cells = np.cumsum([0, *sizes])
        self._check(config.pairs)

    def _layer(self, log_ratio: float) -> Layer:
        ratios = math.exp(log_ratio / 2), math.exp(-log_ratio / 2)
        counts = [math.floor(self._room(ratio) / (ratio * COLUMN_FRAMES)) + 1 for ratio in ratios]
        middles = [
            ratio * (COLUMN_FRAMES * np.arange(count + self.window - 1) + (COLUMN_FRAMES - 1) / 2)
            for ratio, count in zip(ratios, counts)
        ]
        return Layer(log_ratio, ratios[0], ratios[1], middles[0], middles[1], counts[0], counts[1])

    def _check(self, pairs: int) -> None:
        if not self.window:
            raise WeightsError(f"config: output_frames must be at least {COLUMN_FRAMES}, not {self.frames}")
        # Where these lie apart there is always a cell apart from all that were picked.
        if (np.diff(self.starts[0, self.spread(pairs)]) < APART_FRAMES).any():
            raise WeightsError(
                f"config: {pairs} windows of {self.frames} frames cannot lie {APART_FRAMES} frames apart in a clip of "
                f"{self.total} frames"
            )

    def _room(self, ratio: float) -> float:
        return self.total - 1 - (self.frames - 1) * ratio

    def __len__(self) -> int:
        return int(self.first_cells[-1])

    @cached_property
    def log_ratios(self) -> Array:
        """The logarithm of rho of each cell."""
        return np.concatenate([np.full(layer.rows * layer.columns, layer.log_ratio) for layer in self.layers])

    @cached_property
    def starts(self) -> Array:
        """Starts in frames of each cell, [2, cells]: of the input and of the target."""
        return np.concatenate([self._starts(layer) for layer in self.layers], axis=1)

    @staticmethod
    def _starts(layer: Layer) -> Array:
        rows, columns = np.divmod(np.arange(layer.rows * layer.columns), layer.columns)
        return COLUMN_FRAMES * np.stack([layer.input_ratio * rows, layer.target_ratio * columns])

    def spread(self, pairs: int) -> Array:
        """Cells at ratio 1 whose windows lie apart, [pairs]: where a selector begins that has learned nothing."""
        middle = len(self.layers) // 2
        layer = self.layers[middle]
        shares = (np.arange(pairs) + 0.5) / pairs
        rows, columns = ((count - 1) * shares for count in (layer.rows, layer.columns))
        return self.first_cells[middle] + rows.astype(int) * layer.columns + columns.astype(int)
