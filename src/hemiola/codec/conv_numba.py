"""A convolution, as every thread of a team carries it out: each has its share of the time."""

from __future__ import annotations

import numpy as np

from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.functions_numba import exp
from hemiola.kernels.tile_numba import BLOCKS, ROWS, WHOLES, tile
from hemiola.kernels.vectors_numba import LANES

_F32 = np.float32
_VECTOR = 4 * LANES  # bytes of a block's outputs for one input
_ROOM = 1 << 15  # numbers that are activated and multiplied at once, so that they stay in a cache: by trial
_LEAST = 96  # rows of outputs for which a large matrix is read once
_DEEP = 1 << 10  # inputs that are multiplied at once, so that their part of a matrix stays there too


@compiled
def convolution(
    part: int,
    parts: int,
    before: np.ndarray,
    x: np.ndarray,
    after: np.ndarray,
    activated: bool,
    stride: int,
    packed: np.ndarray,
    bias: np.ndarray,
    packed_after: np.ndarray,
    bias_after: np.ndarray,
    onto_before: np.ndarray,
    onto: np.ndarray,
    out: np.ndarray,
) -> None:
    """What thread `part` of `parts` does of a convolution of `before`, x and `after`: out [B, count, outputs].

    before, x, after: float32 [B, ., inputs], one behind the other, then as many zeros as are wanted; `activated` first
        (ELU) or as they are.
    stride: samples from the window of one output to that of the next.
    packed: float32 [width / LANES, depth, LANES], blocks side by side as `side_by_side` says; depth = kernel * inputs.
    bias: float32 [width].
    packed_after, bias_after: of a convolution that follows, of as many outputs and one sample wide, and activates what
        comes to it; or no blocks, and then the width is that of the outputs.
    onto_before, onto: float32 [B, ., outputs], what the products are added to, one behind the other; or no rows.
    """
    batch, count = out.shape[:2]
    inputs, depth, width = x.shape[2], packed.shape[1], len(bias)
    window, followed = depth // inputs, len(packed_after) > 0
    many = max(_LEAST, (_ROOM // inputs - window) // stride) // ROWS * ROWS
    room = np.empty(((many - 1) * stride + window) * inputs, _F32)
    between = np.empty((many if followed else 0, width), _F32)
    calmed, nothing = np.empty(between.size, _F32), onto[0, :0]
    tiles = (count + ROWS - 1) // ROWS
    number, last = batch * tiles * part // parts, batch * tiles * (part + 1) // parts
    while number < last:
        row, first = number // tiles, number % tiles
        some = min(many // ROWS, last - number, tiles - first)
        start = first * ROWS
        stop = min(count, start + some * ROWS)
        target = out[row, start:stop]
        _fill(before[row], x[row], after[row], activated, start * stride, (stop - start - 1) * stride + window, room)
        if followed:
            middle = between[: stop - start]
            _begin(bias, nothing, nothing, 0, middle)
            _multiply(packed, room, stride * inputs, middle)
            _copy(middle.reshape(-1), True, calmed)
            _begin(bias_after, onto_before[row], onto[row], start, target)
            _multiply(packed_after, calmed, width, target)
        else:
            _begin(bias, onto_before[row], onto[row], start, target)
            _multiply(packed, room, stride * inputs, target)
        number += some


@compiled
def _multiply(packed: np.ndarray, given: np.ndarray, between: int, out: np.ndarray) -> None:
    """Rows that begin `between` numbers apart times a packed matrix, onto out [rows, outputs]."""
    rows, outputs = out.shape
    depth = packed.shape[1]
    for deep in range(0, depth, _DEEP):
        block = 0
        while block < len(packed):
            blocks = side_by_side(len(packed) - block)
            for row in range(0, rows, ROWS):
                tile(
                    WHOLES,
                    blocks,
                    min(ROWS, rows - row),
                    packed.ctypes.data + (block * depth + deep * blocks) * _VECTOR,
                    _VECTOR,
                    blocks * _VECTOR,
                    given.ctypes.data + (row * between + deep) * 4,
                    between * 4,
                    min(_DEEP, depth - deep),
                    out.ctypes.data + (row * outputs + block * LANES) * 4,
                    outputs * 4,
                    True,
                )
            block += blocks


@compiled
def side_by_side(blocks: int) -> int:
    """How many of the blocks that are left stand side by side, and are multiplied together."""
    return BLOCKS if blocks >= BLOCKS else min(blocks, 2)


@compiled
def _begin(bias: np.ndarray, before: np.ndarray, onto: np.ndarray, start: int, out: np.ndarray) -> None:
    """Write the bias, and rows from row `start` of `before` and `onto`, where there are any, into `out`."""
    rows, outputs = out.shape
    held = min(max(len(before) - start, 0), rows)
    if len(before) + len(onto) == 0:
        for row in range(rows):
            for each in range(outputs):
                out[row, each] = bias[each]
        return
    for row in range(held):
        for each in range(outputs):
            out[row, each] = before[start + row, each] + bias[each]
    for row in range(held, rows):
        for each in range(outputs):
            out[row, each] = onto[start + row - len(before), each] + bias[each]


@compiled
def _fill(
    before: np.ndarray, x: np.ndarray, after: np.ndarray, activated: bool, start: int, rows: int, room: np.ndarray
) -> None:
    """Write `rows` rows from row `start` of `before`, x and `after`, behind which there are zeros, into the room."""
    inputs = x.shape[1]
    done, start = _take(before, activated, start, 0, rows, room)
    done, start = _take(x, activated, start, done, rows, room)
    done, start = _take(after, activated, start, done, rows, room)
    room[done * inputs : rows * inputs] = _F32(0)


@compiled
def _take(piece: np.ndarray, activated: bool, start: int, done: int, rows: int, room: np.ndarray) -> tuple[int, int]:
    """Write a piece's rows from `start` on, as many as are wanted, behind those that are done -> how many are, and
    the row of the next piece that comes after."""
    length, inputs = piece.shape
    some = min(max(length - start, 0), rows - done)
    if some > 0:
        _copy(piece[start : start + some].reshape(-1), activated, room[done * inputs :])
    return done + some, max(start - length, 0)


@compiled
def _copy(source: np.ndarray, activated: bool, out: np.ndarray) -> None:
    size = len(source)
    if activated:
        for each in range(size):
            number = source[each]
            out[each] = max(number, exp(min(number, _F32(0))) - _F32(1))
    else:
        for each in range(size):
            out[each] = source[each]
