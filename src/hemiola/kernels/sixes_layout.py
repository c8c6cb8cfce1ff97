"""Six-bit weights in the order in which `sixes_numba` reads them."""

from __future__ import annotations

import numpy as np

from hemiola.kernels.memory import LINE
from hemiola.kernels.sixes_numba import BLOCKS, GROUP, INPUTS, LINES, OUTPUTS, QUADS


def laid_out(codes: np.ndarray, scales: np.ndarray, out: np.ndarray) -> None:
    """Codes uint8 [outputs, inputs] below 64 and scales int8 [outputs, groups] -> out uint8 [bytes]."""
    outputs, inputs = codes.shape
    shape = outputs // OUTPUTS, BLOCKS, LINE // INPUTS, inputs // GROUP, QUADS, INPUTS
    # Of each bundle and group: [QUADS, BLOCKS, a line].
    lines = codes.reshape(shape).transpose(0, 3, 4, 1, 2, 5).reshape(shape[0], shape[3], QUADS, BLOCKS, LINE)
    places = out.reshape(shape[0], shape[3], LINES, LINE)
    triples = places[:, :, : 3 * QUADS].reshape(shape[0], shape[3], QUADS, 3, LINE)
    lower, upper = lines & 0x0F, lines >> 4
    for half in range(2):
        triples[:, :, :, half] = lower[..., 2 * half, :] | lower[..., 2 * half + 1, :] << 4
    triples[:, :, :, 2] = sum(upper[..., block, :] << 2 * block for block in range(BLOCKS))
    places[:, :, -1] = scales.view(np.uint8).reshape(shape[0], OUTPUTS, -1).swapaxes(1, 2)


def size(outputs: int, inputs: int) -> int:
    """Bytes of a matrix."""
    return outputs // OUTPUTS * (inputs // GROUP) * LINES * LINE
