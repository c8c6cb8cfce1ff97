"""Attention of a step's rows over what they remember, which is packed as matrices are: it is two products.

As in products_numba.py, numba looks up what stands in for a function that raises NotImplementedError.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from hemiola.kernels.bytes_numba import multiply_bytes
from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.functions_numba import disordered, exp, ordered
from hemiola.kernels.memory import LINE
from hemiola.kernels.rounding_numba import halve
from hemiola.kernels.sixes_numba import GROUP
from hemiola.kernels.tile_numba import BLOCKS, tile
from hemiola.kernels.vectors_numba import LANES
from hemiola.musicgen.products_numba import SIXES, held

_F32 = np.float32
_LOWEST = np.float32(-1e30)


class Desk(NamedTuple):
    """What a thread writes on while it attends."""

    scores: np.ndarray  # float32 [places], with room for a group behind them
    given: np.ndarray  # int8 [n], a row as products with bytes take it
    steps: np.ndarray  # float32 [1], what one of its steps stands for
    ones: np.ndarray  # float32 [head_dim]


@compiled
def desk(places: int, n: int) -> Desk:
    """One for so many places, whole blocks of them, and heads of n numbers."""
    size = max(places, n) + GROUP
    given = (size + GROUP - 1) // GROUP * 2 * (GROUP + 4)
    return Desk(np.zeros(size, np.float32), np.empty(given, np.int8), np.empty(1, np.float32), np.ones(n, _F32))


def attend(
    queries: np.ndarray, memory: Any, layer: int, row: int, head: int, stop: int, out: np.ndarray, desk: Desk
) -> None:
    """One head of one row: its query over what it remembers before the place `stop`; queries [d] -> out [d]."""
    raise NotImplementedError


@overload(attend)
def _attend_to(queries: Any, memory: Any, layer: Any, row: Any, head: Any, stop: Any, out: Any, desk: Any) -> Any:
    # Nothing is sliced: each time numba counts who looks at an array, and a head takes no longer than a few of that.
    def numbers(queries: Any, memory: Any, layer: Any, row: Any, head: Any, stop: Any, out: Any, desk: Any) -> None:
        keys, values, start = memory.keys, memory.values, memory.first[row]
        n, inputs = keys.shape[4] * keys.shape[6], keys.shape[6]
        query, found, scores = queries.ctypes.data, out.ctypes.data, desk.scores.ctypes.data
        block, last = start // LANES, (stop + LANES - 1) // LANES
        spread(
            keys,
            _at(keys, layer, row, head),
            block,
            last,
            0,
            n // inputs,
            query + head * n * 4,
            scores - block * LANES * 4,
        )
        weigh(desk.scores, start - block * LANES, stop - block * LANES, n)
        # A group may hold a place before the first, or one that is not written yet.
        begin, end = start // inputs, (stop + inputs - 1) // inputs
        shares = scores + (begin * inputs - block * LANES) * 4
        spread(values, _at(values, layer, row, head), 0, n // LANES, begin, end - begin, shares, found + head * n * 4)

    def in_bytes(queries: Any, memory: Any, layer: Any, row: Any, head: Any, stop: Any, out: Any, desk: Any) -> None:
        start = memory.first[row]
        inputs = memory.keys.shape[6]
        n = memory.keys.shape[4] * inputs
        for k in range(n):
            desk.scores[k] = queries[np.uintp(head * n + k)]
        half = _halved(desk, 0, n)
        block, last = start // LANES, (stop + LANES - 1) // LANES
        steps = desk.steps.ctypes.data
        given = desk.given.ctypes.data
        asked = desk.scores.ctypes.data - block * LANES * 4
        place = _at(memory.keys, layer, row, head)
        apart = memory.keys.strides[3]
        units = _at(memory.key_units, layer, row, head)
        multiply_bytes(place, apart, n // inputs, units, 1, given, half, steps, block, last, asked, 0, False)
        weigh(desk.scores, start - block * LANES, stop - block * LANES, n)
        for k in range(stop - block * LANES):
            desk.scores[k] *= memory.value_units[layer, row, head, np.uintp(block * LANES + k)]
        begin, end = start // inputs, (stop + inputs - 1) // inputs
        half = _halved(desk, begin * inputs - block * LANES, end * inputs - block * LANES)
        place = _at(memory.values, layer, row, head) + begin * LINE
        apart = memory.values.strides[3]
        ones = desk.ones.ctypes.data
        found = out.ctypes.data + head * n * 4
        multiply_bytes(place, apart, end - begin, ones, 1, given, half, steps, 0, n // LANES, found, 0, False)

    return in_bytes if held(memory) == SIXES else numbers


@compiled
def _at(some: np.ndarray, layer: int, row: int, head: int) -> int:
    """Where the part of one head begins."""
    return some.ctypes.data + layer * some.strides[0] + row * some.strides[1] + head * some.strides[2]


@compiled
def _halved(desk: Desk, first: int, last: int) -> int:
    """Bring scores to the form in which products with bytes take a row; returns the bytes of a half."""
    groups = (last - first + GROUP - 1) // GROUP
    for k in range(last, first + groups * GROUP):
        desk.scores[k] = _F32(0)
    half = groups * (GROUP + 4)
    desk.steps[0] = halve(desk.scores.ctypes.data + first * 4, groups * GROUP, desk.given.ctypes.data, half)
    return half


def spread(packed: np.ndarray, place: int, block: int, last: int, group: int, depth: int, given: int, out: int) -> None:
    """Blocks to `last` of one head's packed [blocks, groups, LANES, inputs], `depth` groups of each, for one row.

    Addresses: place, where the head's blocks begin; given and out.
    """
    raise NotImplementedError


@overload(spread)
def _spread_by(packed: Any, place: Any, block: Any, last: Any, group: Any, depth: Any, given: Any, out: Any) -> Any:
    kind = held(packed)

    def spread(packed: Any, place: Any, block: Any, last: Any, group: Any, depth: Any, given: Any, out: Any) -> None:
        apart, onward = packed.strides[3], packed.strides[4]
        while block < last:
            blocks = BLOCKS if block + BLOCKS <= last else min(2, last - block)
            start, target = place + block * apart + group * onward, out + block * LANES * 4
            tile(kind, blocks, 1, start, apart, 4 * LANES, given, 0, depth, target, 0, False)
            block += blocks

    return spread


@compiled
def weigh(scores: np.ndarray, start: int, stop: int, n: int) -> None:
    """Products of a query and keys [n], from the place `start` to `stop` -> their softmax, in their place.

    The rest of the first and of the last LANES places, which scores has room for, becomes 0: so all is done in vectors.
    """
    size = (stop + LANES - 1) // LANES * LANES
    for place in range(start):
        scores[place] = _LOWEST
    for place in range(stop, size):
        scores[place] = _LOWEST
    highest, total = ordered(_LOWEST), _F32(0)
    for place in range(size):
        highest = max(highest, ordered(scores[place]))
    largest, rate = disordered(highest), _F32(1) / np.sqrt(_F32(n))
    for place in range(size):
        scores[place] = exp((scores[place] - largest) * rate)
        total += scores[place]
    # What exp gives of the lowest number is no more than a rounding of the sum.
    share = _F32(1) / total
    for place in range(size):
        scores[place] *= share
    for place in range(start):
        scores[place] = _F32(0)
    for place in range(stop, size):
        scores[place] = _F32(0)
