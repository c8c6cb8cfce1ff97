"""Weights as whole numbers of six bits times scales, group by group."""

from __future__ import annotations

import numpy as np

from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.sixes_numba import GROUP, ZERO

_F32 = np.float32
_TRIALS = 6  # scales that are tried for a group
_LONGEST = _F32(1.03)  # of them, as a share of what just reaches the largest weight
_FINER = _F32(0.03)  # by what share they differ
_BYTE = 127


@compiled
def rounded(
    part: int, parts: int, weight: np.ndarray, codes: np.ndarray, scales: np.ndarray, units: np.ndarray
) -> None:
    """Round the rows of weight float32 [outputs, inputs] that are thread `part`'s share.

    A weight becomes (code - ZERO) * scale * unit, with codes uint8 [outputs, inputs], scales int8 [outputs, groups],
    units float32 [outputs]. Of a few scales a group takes that which leaves the least error, of squares; its largest
    weight lies on the side that reaches further.
    """
    outputs, inputs = weight.shape
    groups = inputs // GROUP
    for output in range(outputs * part // parts, outputs * (part + 1) // parts):
        row = weight[output]
        largest = _F32(0)
        for place in range(inputs):
            largest = max(largest, abs(row[place]))
        unit = max(largest / _F32(ZERO * _BYTE), np.finfo(np.float32).tiny)
        units[output] = unit
        for group in range(groups):
            some = row[group * GROUP : (group + 1) * GROUP]
            high, low = _F32(0), _F32(0)
            for place in range(GROUP):
                high, low = max(high, some[place]), min(low, some[place])
            reach, side = (high, -1) if high > -low else (-low, 1)
            least, best = _F32(np.inf), 1
            for trial in range(_TRIALS):
                wanted = reach / (_F32(ZERO) * unit) * (_LONGEST - _FINER * _F32(trial))
                size = int(wanted + _F32(0.5))
                scale = side * min(max(size, 1), _BYTE)
                error = _error(some, _F32(scale) * unit)
                if error < least:
                    least, best = error, scale
            scales[output, group] = best
            step = _F32(1) / (_F32(best) * unit)
            for place in range(GROUP):
                codes[output, group * GROUP + place] = np.uint8(_whole(some[place] * step) + _F32(ZERO))


@compiled
def _error(some: np.ndarray, step: np.float32) -> np.float32:
    rate, total = _F32(1) / step, _F32(0)
    for place in range(GROUP):
        away = _whole(some[place] * rate) * step - some[place]
        total += away * away
    return total


@compiled
def _whole(number: np.float32) -> np.float32:
    return min(max(np.floor(number + _F32(0.5)), _F32(-ZERO)), _F32(ZERO - 1))
