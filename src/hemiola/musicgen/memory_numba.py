"""Keys and values that a batch remembers, packed as matrices are: numbers, or bytes beside weights of six bits.

As in products_numba.py, numba looks up what stands in for a function that raises NotImplementedError.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from hemiola.kernels.bytes_numba import LARGEST, ZERO
from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.memory import LINE
from hemiola.kernels.rounding_numba import SMALLEST
from hemiola.kernels.tile_numba import HALVES, WHOLES
from hemiola.kernels.vectors_numba import LANES, fetched
from hemiola.musicgen.products_numba import SIXES, held

_F32 = np.float32
_BEGUN = 8  # blocks of places that are asked for before a head begins


class Memory(NamedTuple):
    """Keys and values of a batch, uint16 (bfloat16) or float32; `inputs` are two in bfloat16, one in float32.

    What was not written is 0.
    """

    keys: np.ndarray  # [layers, rows, heads, places / LANES, n / inputs, LANES, inputs]
    values: np.ndarray  # [layers, rows, heads, n / LANES, places / inputs, LANES, inputs]
    first: np.ndarray  # int64 [rows], the first place that a row sees
    stop: np.ndarray  # int64 [rows], where a row's text ends


class ByteMemory(NamedTuple):
    """The same with a byte each, as `bytes_numba` has them, four inputs side by side."""

    keys: np.ndarray  # uint8 [layers, rows, heads, places / LANES, n / 4, LANES, 4]
    values: np.ndarray  # uint8 [layers, rows, heads, n / LANES, places / 4, LANES, 4]
    first: np.ndarray
    stop: np.ndarray
    key_units: np.ndarray  # float32 [layers, rows, heads, places], what 1 stands for
    value_units: np.ndarray


@compiled
def remember(part: int, parts: int, memory: Any, layer: int, keys: np.ndarray, values: np.ndarray) -> None:
    """Write down keys and values [rows, heads, places, n] from place 0 on: the heads that are thread `part`'s share."""
    rows, heads, places, n = keys.shape
    both = np.empty(2 * n, np.float32)
    for row in range(rows):
        for head in range(heads * part // parts, heads * (part + 1) // parts):
            for place in range(places):
                both[:n], both[n:] = keys[row, head, place], values[row, head, place]
                write(memory, layer, row, head, place, both, 0, n)


@compiled
def write(memory: Any, layer: int, row: int, head: int, place: int, source: np.ndarray, key: int, value: int) -> None:
    """Write a key and a value [n] down, which begin there in the source."""
    # Nothing is sliced: each time numba counts who looks at an array.
    keys, values = memory.keys, memory.values
    inputs = keys.shape[6]
    block, lane, group, side = place // LANES, place % LANES, place // inputs, place % inputs
    key_rate, value_rate = rates(memory, layer, row, head, place, source, key, value)
    for first in range(keys.shape[4]):
        for k in range(inputs):
            number = source[np.uintp(key + first * inputs + k)]
            keys[layer, row, head, block, first, lane, k] = kept(number, key_rate, keys)
    for first in range(values.shape[3]):
        for k in range(LANES):
            number = source[np.uintp(value + first * LANES + k)]
            values[layer, row, head, first, group, k, side] = kept(number, value_rate, values)


def rates(
    memory: Any, layer: int, row: int, head: int, place: int, source: np.ndarray, key: int, value: int
) -> tuple[np.float32, np.float32]:
    """What a key and a value are multiplied by to become bytes, whose units are written down; 1 where they do not."""
    raise NotImplementedError


@overload(rates)
def _rates_for(memory: Any, layer: Any, row: Any, head: Any, place: Any, source: Any, key: Any, value: Any) -> Any:
    def ones(memory: Any, layer: Any, row: Any, head: Any, place: Any, source: Any, key: Any, value: Any) -> Any:
        return _F32(1), _F32(1)

    def of_bytes(memory: Any, layer: Any, row: Any, head: Any, place: Any, source: Any, key: Any, value: Any) -> Any:
        n = memory.keys.shape[4] * memory.keys.shape[6]
        key_unit, key_rate = _unit(source, key, n)
        value_unit, value_rate = _unit(source, value, n)
        memory.key_units[layer, row, head, place] = key_unit
        memory.value_units[layer, row, head, place] = value_unit
        return key_rate, value_rate

    return of_bytes if held(memory) == SIXES else ones


def kept(number: float, rate: np.float32, where: np.ndarray) -> Any:
    """A float32 as it is, the bits of the nearest bfloat16, the even one of two, or its byte at that rate."""
    raise NotImplementedError


@overload(kept)
def _kept_in(number: Any, rate: Any, where: Any) -> Any:
    def same(number: Any, rate: Any, where: Any) -> Any:
        return number

    def rounded(number: Any, rate: Any, where: Any) -> Any:
        bits = np.float32(number).view(np.uint32)
        return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

    def code(number: Any, rate: Any, where: Any) -> Any:
        return np.uint8(np.int32(number * rate + _F32(ZERO + 0.5)))

    return {SIXES: code, HALVES: rounded, WHOLES: same}[held(where)]


@compiled
def _unit(source: np.ndarray, first: int, n: int) -> tuple[np.float32, np.float32]:
    """What 1 is to stand for, so that the largest of n numbers is LARGEST, and its inverse."""
    # As in largest_bits: of what is no number the unit says so.
    most = np.int32(0)
    for k in range(n):
        bits = np.float32(source[np.uintp(first + k)]).view(np.int32)
        most = max(most, np.int32(bits & np.int32(0x7FFFFFFF)))
    reach = max(np.int32(most).view(np.float32), SMALLEST)
    return reach / _F32(LARGEST), _F32(LARGEST) / reach


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
    fetch_units(memory, layer, row, head, start, min(stop, start + _BEGUN * LANES))


def fetch_units(memory: Any, layer: int, row: int, head: int, start: int, stop: int) -> None:
    """Ask for what bytes of the places from `start` to `stop` stand for, where they are bytes."""
    raise NotImplementedError


@overload(fetch_units)
def _fetch_units_of(memory: Any, layer: Any, row: Any, head: Any, start: Any, stop: Any) -> Any:
    def nothing(memory: Any, layer: Any, row: Any, head: Any, start: Any, stop: Any) -> None:
        pass

    def of_bytes(memory: Any, layer: Any, row: Any, head: Any, start: Any, stop: Any) -> None:
        keys, values = memory.key_units, memory.value_units
        place = layer * keys.strides[0] + row * keys.strides[1] + head * keys.strides[2] + start * 4
        fetched(keys.ctypes.data + place, (stop - start) * 4 + LINE)
        fetched(values.ctypes.data + place, (stop - start) * 4 + LINE)

    return of_bytes if held(memory) == SIXES else nothing
