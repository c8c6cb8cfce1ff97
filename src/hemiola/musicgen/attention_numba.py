"""Attention of a step's rows over what they remember, which is packed as matrices are.

As in products_numba.py, numba looks up what stands in for a function that raises NotImplementedError.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.functions_numba import exp
from hemiola.kernels.tile_numba import BLOCKS, WHOLES, tile
from hemiola.kernels.vectors_numba import LANES, fetched
from hemiola.musicgen.products_numba import held

_F32 = np.float32
_LOWEST = np.float32(-1e30)
_BEGUN = 8  # blocks of places that are asked for before a head begins


class Memory(NamedTuple):
    """Keys and values of a batch, uint16 (bfloat16) or float32, packed as matrices are: attention is two products.

    `inputs` are two in bfloat16, one in float32. What was not written is 0.
    """

    keys: np.ndarray  # [layers, rows, heads, places / LANES, n / inputs, LANES, inputs]
    values: np.ndarray  # [layers, rows, heads, n / LANES, places / inputs, LANES, inputs]
    first: np.ndarray  # int64 [rows], the first place that a row sees
    stop: np.ndarray  # int64 [rows], where a row's text ends


def kept(number: float, where: np.ndarray) -> Any:
    """A float32 as it is, or the bits of the nearest bfloat16, the even one of two."""
    raise NotImplementedError


@overload(kept)
def _kept_in(number: Any, where: Any) -> Any:
    def same(number: Any, where: Any) -> Any:
        return number

    def rounded(number: Any, where: Any) -> Any:
        bits = np.float32(number).view(np.uint32)
        return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

    return same if held(where) == WHOLES else rounded


def spread(
    packed: np.ndarray, block: int, last: int, group: int, depth: int, given: np.ndarray, out: np.ndarray
) -> None:
    """Blocks to `last` of packed [blocks, groups, LANES, inputs], `depth` groups of each, for one row -> outputs."""
    raise NotImplementedError


@overload(spread)
def _spread_by(packed: Any, block: Any, last: Any, group: Any, depth: Any, given: Any, out: Any) -> Any:
    kind = held(packed)

    def spread(packed: Any, block: Any, last: Any, group: Any, depth: Any, given: Any, out: Any) -> Any:
        while block < last:
            blocks = BLOCKS if block + BLOCKS <= last else min(2, last - block)
            start = packed.ctypes.data + block * packed.strides[0] + group * packed.strides[1]
            target = out.ctypes.data + block * LANES * 4
            tile(
                kind,
                blocks,
                1,
                start,
                packed.strides[0],
                4 * LANES,
                given.ctypes.data,
                0,
                depth,
                target,
                0,
                False,
            )
            block += blocks

    return spread


@compiled
def remember(part: int, parts: int, memory: Any, layer: int, keys: np.ndarray, values: np.ndarray) -> None:
    """Write down keys and values [rows, heads, places, n] from place 0 on: the heads that are thread `part`'s share."""
    rows, heads, places, _ = keys.shape
    for row in range(rows):
        for head in range(heads * part // parts, heads * (part + 1) // parts):
            for place in range(places):
                write(memory, layer, row, head, place, keys[row, head, place], values[row, head, place])


@compiled
def write(memory: Any, layer: int, row: int, head: int, place: int, key: np.ndarray, value: np.ndarray) -> None:
    """Write a key and a value [n] down."""
    keys, values = memory.keys[layer, row, head], memory.values[layer, row, head]
    inputs = keys.shape[3]
    block, lane, group, side = place // LANES, place % LANES, place // inputs, place % inputs
    for first in range(0, len(key), inputs):
        for k in range(inputs):
            keys[block, first // inputs, lane, k] = kept(key[first + k], keys)
    for first in range(0, len(value), LANES):
        for k in range(LANES):
            values[first // LANES, group, k, side] = kept(value[first + k], values)


@compiled
def fetch_memory(memory: Any, layer: int, row: int, head: int, stop: int) -> None:
    """Ask for what `attend` will begin with: a head's memory does not follow on that of the one before."""
    keys, values = memory.keys[layer, row, head], memory.values[layer, row, head]
    inputs, start = keys.shape[3], memory.first[row]
    first, last = start // LANES, (stop + LANES - 1) // LANES
    fetched(keys[first].ctypes.data, min(last - first, _BEGUN) * keys.strides[0])
    begin, end = start // inputs, (stop + inputs - 1) // inputs
    size = min(end - begin, _BEGUN * LANES // inputs) * values.strides[1]
    for block in range(len(values)):
        fetched(values[block, begin].ctypes.data, size)


@compiled
def attend(
    query: np.ndarray, memory: Any, layer: int, row: int, head: int, stop: int, out: np.ndarray, scores: np.ndarray
) -> None:
    """One head of one row: its query [n] over what it remembers before the place `stop` -> out [n]."""
    keys, values = memory.keys[layer, row, head], memory.values[layer, row, head]
    inputs, n, start = keys.shape[3], len(query), memory.first[row]
    block, last = start // LANES, (stop + LANES - 1) // LANES
    spread(keys, block, last, 0, n // inputs, query, scores)
    weigh(scores, start, stop, n)
    # A group may hold a place before the first, or one that is not written yet.
    begin, end = start // inputs, (stop + inputs - 1) // inputs
    spread(values, 0, n // LANES, begin, end - begin, scores[begin * inputs :], out)


@compiled
def weigh(scores: np.ndarray, start: int, stop: int, n: int) -> None:
    """Products of a query and keys [n] before `stop`, from `start` on -> their softmax, in their place.

    The rest of the first and of the last LANES places, which scores has room for, becomes 0: so all is done in vectors.
    """
    first, last = start // LANES * LANES, (stop + LANES - 1) // LANES * LANES
    scores[first:start] = _LOWEST
    scores[stop:last] = _LOWEST
    some = scores[first:last]
    rate, largest, total = _F32(1) / np.sqrt(_F32(n)), _LOWEST, _F32(0)
    for place in range(len(some)):
        largest = max(largest, some[place])
    for place in range(len(some)):
        some[place] = exp((some[place] - largest) * rate)
        total += some[place]
    # What exp gives of the lowest number is no more than a rounding of the sum.
    share = _F32(1) / total
    for place in range(len(some)):
        some[place] *= share
    scores[first:start] = _F32(0)
    scores[stop:last] = _F32(0)
