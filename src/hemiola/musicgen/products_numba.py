"""Products with packed matrices: numba chooses by what a matrix holds, when it compiles the call.

A function whose body raises NotImplementedError is a name for numba to look up; what stands in for it follows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.tile_numba import BLOCKS, BYTES, HALVES, INPUTS, ROWS, WHOLES, tile
from hemiola.kernels.vectors_numba import LANES

_F32 = np.float32
_VECTOR = 4 * LANES  # bytes of a block's group
_SMALLEST = np.finfo(np.float32).tiny


class Bytes(NamedTuple):
    """Matrices [in, out] of all layers in signed bytes."""

    packed: np.ndarray  # int8 [layers, bytes], as tile_numba.py has it
    scales: np.ndarray  # float32 [layers, out]
    excess: np.ndarray  # int32 [layers, out], what sums are too large by, since the byte that means 0 is not 0
    above: float  # of what is multiplied: steps above 0
    below: float  # and below, which is also the byte that means 0


class Plain(NamedTuple):
    """Matrices [in, out] of all layers in bfloat16 or float32."""

    packed: np.ndarray  # uint16 or float32 [layers, numbers]


@compiled
def product(part: int, parts: int, matrix: Any, layer: int, hidden: np.ndarray, out: np.ndarray, adding: bool) -> None:
    """Hidden [rows, in] times a layer's matrix, into or onto out [rows, out]: the rows of thread `part`."""
    start, stop = len(hidden) * part // parts, len(hidden) * (part + 1) // parts
    if start < stop:
        given, steps = room(matrix, stop - start, hidden.shape[1]), np.empty(stop - start, np.float32)
        for row in range(stop - start):
            give(matrix, hidden[start + row], given[row], steps, row)
        multiply(matrix, layer, given, steps, 0, out.shape[1], out[start:stop], adding)


def _held(packed: Any) -> int:
    """What a matrix or an array of numba's types holds, by its kind of products."""
    if isinstance(packed, tuple) or hasattr(packed, "instance_class"):
        packed = packed[0]
    return {8: BYTES, 16: HALVES, 32: WHOLES}[packed.dtype.bitwidth]


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

    return same if _held(where) == WHOLES else rounded


def room(matrix: Any, rows: int, width: int) -> np.ndarray:
    """An array [rows, width] for rows as products with the matrix take them."""
    raise NotImplementedError


@overload(room)
def _room_for(matrix: Any, rows: Any, width: Any) -> Any:
    number = np.uint8 if _held(matrix) == BYTES else np.float32

    def empty(matrix: Any, rows: Any, width: Any) -> Any:
        return np.empty((rows, width), number)

    return empty


def give(matrix: Any, source: np.ndarray, out: np.ndarray, steps: np.ndarray, row: int) -> None:
    """Bring a row into the form in which products take it; steps[row] is what one of its steps stands for."""
    raise NotImplementedError


@overload(give)
def _give_to(matrix: Any, source: Any, out: Any, steps: Any, row: Any) -> Any:
    def copied(matrix: Any, source: Any, out: Any, steps: Any, row: Any) -> Any:
        out[:] = source

    def cut(matrix: Any, source: Any, out: Any, steps: Any, row: Any) -> Any:
        # Compared as integers: of floats that are not negative it is the same order, and quicker.
        bits, high, low = source.view(np.int32), np.int32(0), np.int32(0)
        for k in range(len(bits)):
            high = max(high, bits[k])
            low = max(low, np.int32(bits[k] ^ np.int32(-0x80000000)))
        above, below = _F32(matrix.above), _F32(matrix.below)
        largest = max(max(np.int32(high).view(np.float32), np.int32(low).view(np.float32) * (above / below)), _SMALLEST)
        rate, middle = above / largest, below + _F32(0.5)
        for k in range(len(source)):
            out[k] = np.int32(source[k] * rate + middle)
        steps[row] = largest / above

    return cut if _held(matrix) == BYTES else copied


def multiply(
    matrix: Any, layer: int, given: np.ndarray, steps: np.ndarray, start: int, stop: int, out: np.ndarray, adding: bool
) -> None:
    """Outputs `start` to `stop`, whole blocks, of a layer's matrix for the rows given, into or onto out [rows, out]."""
    raise NotImplementedError


@overload(multiply)
def _multiply_by(matrix: Any, layer: Any, given: Any, steps: Any, start: Any, stop: Any, out: Any, adding: Any) -> Any:
    kind = _held(matrix)
    inputs = INPUTS[kind]

    def multiply(matrix: Any, layer: Any, given: Any, steps: Any, start: Any, stop: Any, out: Any, adding: Any) -> Any:
        depth = given.shape[1] // inputs
        packed = matrix.packed.ctypes.data + layer * matrix.packed.strides[0]
        scales, excess = _scales(matrix, layer)
        outputs = matrix.packed.shape[1] // given.shape[1]
        joined = outputs // LANES // BLOCKS * BLOCKS  # blocks that stand side by side
        block, last = start // LANES, stop // LANES
        while block < last:
            beside, onward = (block % BLOCKS, BLOCKS * _VECTOR) if block < joined else (0, _VECTOR)
            blocks = BLOCKS if block < joined and beside == 0 and block + BLOCKS <= last else 1
            offset = block * LANES * 4
            for row in range(0, len(given), ROWS):
                tile(
                    kind,
                    blocks,
                    min(ROWS, len(given) - row),
                    packed + (block - beside) * depth * _VECTOR + beside * _VECTOR,
                    _VECTOR,
                    onward,
                    given.ctypes.data + row * given.strides[0],
                    depth,
                    steps.ctypes.data + row * 4,
                    scales + offset,
                    excess + offset,
                    out.ctypes.data + row * out.strides[0] + offset,
                    out.strides[0],
                    adding,
                )
            block += blocks

    return multiply


def _scales(matrix: Any, layer: int) -> tuple[int, int]:
    """Addresses of a layer's scales and excesses; 0 where there are none."""
    raise NotImplementedError


@overload(_scales)
def _scales_of(matrix: Any, layer: Any) -> Any:
    def some(matrix: Any, layer: Any) -> Any:
        return matrix.scales[layer].ctypes.data, matrix.excess[layer].ctypes.data

    def none(matrix: Any, layer: Any) -> Any:
        return 0, 0

    return some if _held(matrix) == BYTES else none


def spread(
    packed: np.ndarray, block: int, last: int, group: int, depth: int, given: np.ndarray, out: np.ndarray
) -> None:
    """Blocks to `last` of packed [blocks, groups, LANES, inputs], `depth` groups of each, for one row -> outputs."""
    raise NotImplementedError


@overload(spread)
def _spread_by(packed: Any, block: Any, last: Any, group: Any, depth: Any, given: Any, out: Any) -> Any:
    kind = _held(packed)

    def spread(packed: Any, block: Any, last: Any, group: Any, depth: Any, given: Any, out: Any) -> Any:
        while block < last:
            blocks = BLOCKS if block + BLOCKS <= last else 1
            start = packed.ctypes.data + block * packed.strides[0] + group * packed.strides[1]
            target = out.ctypes.data + block * LANES * 4
            tile(
                kind, blocks, 1, start, packed.strides[0], _VECTOR, given.ctypes.data, depth, 0, 0, 0, target, 0, False
            )
            block += blocks

    return spread
