"""A layer of an LSTM, as every thread of a team carries it out: each has its share of the units."""

from __future__ import annotations

import numpy as np

from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.functions_numba import sigmoid, tanh
from hemiola.kernels.meeting_numba import meet
from hemiola.kernels.tile_numba import BLOCKS, GROUP_BYTES, ROWS, THREES, tile
from hemiola.kernels.vectors_numba import LANES

GATES = BLOCKS  # admit, keep, new, show: a block of units has one block of outputs for each
_BLOCK = LANES * GROUP_BYTES[THREES]  # bytes of a block's outputs for one input


@compiled
def layer(
    part: int,
    parts: int,
    packed: np.ndarray,
    driven: np.ndarray,
    hidden: np.ndarray,
    cell: np.ndarray,
    out: np.ndarray,
    counts: np.ndarray,
) -> None:
    """What thread `part` of `parts` does of all steps of one layer: out [n, B, width], and the last cell.

    packed: uint8 [width / LANES, bytes], the recurrent weights of a block of units, [width, GATES, LANES] in 3 bytes
        each.
    driven: float32 [n, B, width / LANES, GATES, LANES], what the input and the biases make of the gates; written over.
    hidden, cell: float32 [B, width], the state before; the cell is written over.
    """
    steps, rows, blocks = driven.shape[:3]
    width = blocks * LANES
    first, last = blocks * part // parts, blocks * (part + 1) // parts
    for step in range(steps):
        before = out[step - 1] if step else hidden
        for number in range(first, last):
            # Forwards and backwards by turns: what was read last is still near.
            block = number if step % 2 else first + last - 1 - number
            for row in range(0, rows, ROWS):
                tile(
                    THREES,
                    GATES,
                    min(ROWS, rows - row),
                    packed.ctypes.data + block * packed.strides[0],
                    _BLOCK,
                    GATES * _BLOCK,
                    before.ctypes.data + row * before.strides[0],
                    before.strides[0],
                    width,
                    driven[step, row, block].ctypes.data,
                    driven.strides[1],
                    True,
                )
            for row in range(rows):
                _unit(driven[step, row, block], cell[row, block * LANES :], out[step, row, block * LANES :])
        meet(counts, parts)


@compiled
def _unit(gates: np.ndarray, cell: np.ndarray, out: np.ndarray) -> None:
    admit, keep, new, show = gates[0], gates[1], gates[2], gates[3]
    for lane in range(LANES):
        cell[lane] = sigmoid(keep[lane]) * cell[lane] + sigmoid(admit[lane]) * tanh(new[lane])
        out[lane] = sigmoid(show[lane]) * tanh(cell[lane])
