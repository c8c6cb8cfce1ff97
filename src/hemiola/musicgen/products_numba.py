"""Products with packed matrices: numba chooses by what a matrix holds, when it compiles the call.

A function whose body raises NotImplementedError is a name for numba to look up; what stands in for it follows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.memory import LINE
from hemiola.kernels.rounding_numba import halve
from hemiola.kernels.rows_numba import multiply_rows
from hemiola.kernels.sixes_numba import GROUP, LINES, OUTPUTS, STREAMS, TOGETHER, multiply_bundles
from hemiola.kernels.tile_numba import BLOCKS, HALVES, INPUTS, ROWS, WHOLES, tile
from hemiola.kernels.vectors_numba import LANES

SIXES = 6  # what a matrix holds, beside the kinds of tile_numba.py

_F32 = np.float32
_VECTOR = 4 * LANES  # bytes of a block's group


class Sixes(NamedTuple):
    """Matrices [in, out] of all layers in six bits a weight."""

    packed: np.ndarray  # uint8 [layers, bytes], as sixes_numba.py has it
    units: np.ndarray  # float32 [layers, out], what a scale of 1 stands for


class Plain(NamedTuple):
    """Matrices [in, out] of all layers in bfloat16 or float32."""

    packed: np.ndarray  # uint16 or float32 [layers, numbers]


@compiled
def product(part: int, parts: int, matrix: Any, layer: int, hidden: np.ndarray, out: np.ndarray, adding: bool) -> None:
    """Hidden [rows, in] times a layer's matrix, into or onto out [rows, out]: the outputs of thread `part`."""
    given, steps = room(matrix, len(hidden), hidden.shape[1]), np.empty(len(hidden), np.float32)
    give_rows(matrix, hidden, given, steps)
    first, last = share(out.shape[1], LANES, part, parts)
    multiply(matrix, layer, given, steps, first, last, out, adding)


@compiled
def products(part: int, parts: int, matrices: Any, hidden: np.ndarray, out: np.ndarray) -> None:
    """Hidden [rows, in] times the matrix of every layer -> out [layers, rows, out]: the outputs of thread `part`."""
    given, steps = room(matrices, len(hidden), hidden.shape[1]), np.empty(len(hidden), np.float32)
    give_rows(matrices, hidden, given, steps)
    first, last = share(out.shape[2], LANES, part, parts)
    for layer in range(len(out)):
        multiply(matrices, layer, given, steps, first, last, out[layer], False)


@compiled
def share(count: int, unit: int, part: int, parts: int) -> tuple[int, int]:
    """Outputs from the first to the last of a thread: whole units, and where it can be whole bundles of outputs."""
    size = unit
    while size % OUTPUTS:
        size += unit
    pieces = count // size
    return pieces * part // parts * size, pieces * (part + 1) // parts * size if part + 1 < parts else count


def held(packed: Any) -> int:
    """What a matrix or an array of numba's types holds, by its kind of products."""
    if isinstance(packed, tuple) or hasattr(packed, "instance_class"):
        packed = packed[0]
    return {8: SIXES, 16: HALVES, 32: WHOLES}[packed.dtype.bitwidth]


def room(matrix: Any, rows: int, width: int) -> np.ndarray:
    """An array [rows, width] for rows as products with the matrix take them."""
    raise NotImplementedError


@overload(room)
def _room_for(matrix: Any, rows: Any, width: Any) -> Any:
    def plain(matrix: Any, rows: Any, width: Any) -> Any:
        return np.empty((rows, width), np.float32)

    def halved(matrix: Any, rows: Any, width: Any) -> Any:
        # Upper bytes and a number of 4 bytes for each group of them, and the same of the lower ones.
        return np.empty((rows, 2 * (width + width * 4 // GROUP)), np.int8)

    return halved if held(matrix) == SIXES else plain


def give(matrix: Any, source: np.ndarray, out: np.ndarray, steps: np.ndarray, row: int) -> None:
    """Bring a row into the form in which products take it; steps[row] is what one of its steps stands for."""
    raise NotImplementedError


@overload(give)
def _give_to(matrix: Any, source: Any, out: Any, steps: Any, row: Any) -> Any:
    def copied(matrix: Any, source: Any, out: Any, steps: Any, row: Any) -> Any:
        out[:] = source

    def halved(matrix: Any, source: Any, out: Any, steps: Any, row: Any) -> Any:
        steps[row] = halve(source.ctypes.data, len(source), out.ctypes.data, len(out) // 2)

    return halved if held(matrix) == SIXES else copied


@compiled
def give_rows(matrix: Any, source: np.ndarray, given: np.ndarray, steps: np.ndarray) -> None:
    """Bring rows into that form."""
    for row in range(len(source)):
        give(matrix, source[row], given[row], steps, row)


def multiply(
    matrix: Any, layer: int, given: np.ndarray, steps: np.ndarray, start: int, stop: int, out: np.ndarray, adding: bool
) -> None:
    """Outputs `start` to `stop`, whole blocks, of a layer's matrix for the rows given, into or onto out [rows, out]."""
    raise NotImplementedError


@overload(multiply)
def _multiply_by(matrix: Any, layer: Any, given: Any, steps: Any, start: Any, stop: Any, out: Any, adding: Any) -> Any:
    kind = held(matrix)
    if kind == SIXES:
        return _multiply_sixes
    inputs = INPUTS[kind]

    def multiply(matrix: Any, layer: Any, given: Any, steps: Any, start: Any, stop: Any, out: Any, adding: Any) -> Any:
        depth = given.shape[1] // inputs
        packed = matrix.packed.ctypes.data + layer * matrix.packed.strides[0]
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
                    given.strides[0],
                    depth,
                    out.ctypes.data + row * out.strides[0] + offset,
                    out.strides[0],
                    adding,
                )
            block += blocks

    return multiply


def _multiply_sixes(
    matrix: Any, layer: Any, given: Any, steps: Any, start: Any, stop: Any, out: Any, adding: Any
) -> None:
    place = matrix.packed.ctypes.data + layer * matrix.packed.strides[0]
    groups = given.shape[1] // 2 // (GROUP + 4)
    multiply_groups(place, groups, 0, matrix.units[layer], given, steps, start, stop, out, adding)


@compiled
def multiply_groups(
    place: int,
    groups: int,
    group: int,
    units: np.ndarray,
    given: np.ndarray,
    steps: np.ndarray,
    start: int,
    stop: int,
    out: np.ndarray,
    adding: bool,
) -> None:
    """The same for the matrix at an address, which has so many groups of inputs: the rows given begin with `group`."""
    rows, depth, size = len(given), given.shape[1] // 2 // (GROUP + 4), groups * LINES * LINE
    bundle, last = start // OUTPUTS, stop // OUTPUTS
    if rows > TOGETHER:
        multiply_rows(place + group * LINES * LINE, size, bundle, last, units, given, steps, out, adding)
        return
    lower, following = given.shape[1] // 2, given.strides[0]
    while bundle < last:
        count, first_line = min(STREAMS, last - bundle), place + bundle * size + group * LINES * LINE
        units_there = units.ctypes.data + bundle * OUTPUTS * 4
        for row in range(0, rows, TOGETHER):
            some = min(TOGETHER, rows - row)
            begin = given.ctypes.data + row * following
            sums, steps_there = begin + depth * GROUP, steps.ctypes.data + row * 4
            target = out.ctypes.data + row * out.strides[0] + bundle * OUTPUTS * 4
            multiply_bundles(
                some,
                count,
                first_line,
                size,
                depth,
                begin,
                sums,
                lower,
                following,
                units_there,
                steps_there,
                target,
                out.strides[0],
                adding,
            )
        bundle += count
