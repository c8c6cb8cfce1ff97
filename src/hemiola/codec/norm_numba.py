"""Group norm of all channels together, as every thread of a team carries it out: memory is passed over twice."""

from __future__ import annotations

import numpy as np

from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.meeting_numba import meet

_F32 = np.float32
_CACHEFUL = 1 << 12  # numbers whose mean and spread are worked out by themselves


@compiled
def group_norm(
    part: int,
    parts: int,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    epsilon: float,
    onto: np.ndarray,
    found: np.ndarray,
    counts: np.ndarray,
) -> None:
    """What thread `part` of `parts` does to norm x float32 [B, T, C], each of the batch by itself, in place.

    weight, bias: float32 [C]. onto: [B, T, C], what is added, or no rows. found: float64 [parts, B, 3], written over:
    how many numbers each thread saw, their mean, and the sum of the squares of what they are away from it.
    """
    batch, length, width = x.shape
    first, last = length * part // parts, length * (part + 1) // parts
    for row in range(batch):
        some = x[row, first:last].reshape(-1)
        number, mean, spread = 0, 0.0, 0.0
        for start in range(0, len(some), _CACHEFUL):
            few = some[start : start + _CACHEFUL]
            number, mean, spread = _together(number, mean, spread, len(few), *_spread(few))
        found[part, row, 0], found[part, row, 1], found[part, row, 2] = number, mean, spread
    meet(counts, parts)
    rates = np.empty(width, _F32)
    for row in range(batch):
        number, mean, spread = 0, 0.0, 0.0
        for each in range(parts):
            other = found[each, row]
            number, mean, spread = _together(number, mean, spread, int(other[0]), other[1], other[2])
        middle, rate = _F32(mean), _F32(1 / np.sqrt(spread / max(number, 1) + epsilon))
        for channel in range(width):
            rates[channel] = weight[channel] * rate
        for place in range(first, last):
            own = x[row, place]
            if len(onto):
                _norm_onto(own, middle, rates, bias, onto[row, place])
            else:
                _norm(own, middle, rates, bias)


@compiled
def _spread(some: np.ndarray) -> tuple[float, float]:
    """The mean of numbers, and the sum of the squares of what they are away from it."""
    total = _F32(0)
    for each in range(len(some)):
        total += some[each]
    mean = total / _F32(len(some))
    squares = _F32(0)
    for each in range(len(some)):
        away = some[each] - mean
        squares += away * away
    return float(mean), float(squares)


@compiled
def _together(
    count: int, mean: float, spread: float, more: int, other_mean: float, other_spread: float
) -> tuple[int, float, float]:
    """What is true of both, of what is true of each (Chan, Golub and LeVeque 1979)."""
    total = count + more
    if total == 0:
        return 0, 0.0, 0.0
    away, share = other_mean - mean, more / total
    return total, mean + away * share, spread + other_spread + away * away * count * share


@compiled
def _norm(own: np.ndarray, middle: np.float32, rates: np.ndarray, bias: np.ndarray) -> None:
    for channel in range(len(own)):
        own[channel] = (own[channel] - middle) * rates[channel] + bias[channel]


@compiled
def _norm_onto(own: np.ndarray, middle: np.float32, rates: np.ndarray, bias: np.ndarray, onto: np.ndarray) -> None:
    for channel in range(len(own)):
        own[channel] = (own[channel] - middle) * rates[channel] + bias[channel] + onto[channel]
