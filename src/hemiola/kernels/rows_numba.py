"""Many rows times bundles of six-bit weights: each group of weights is unpacked once, and multiplied by all."""

from __future__ import annotations

import numpy as np

from hemiola.kernels.amx_numba import GROUPS, ROWS, SCRATCH, SPREAD, add_groups, begin_tiles, end_tiles, spread_groups
from hemiola.kernels.compiling_numba import compiled, tiles_granted
from hemiola.kernels.memory import LINE
from hemiola.kernels.sixes_numba import GROUP, LINES, OUTPUTS, add_group, finish, unpack

_F32 = np.float32


def by_vectors(
    place: int,
    size: int,
    bundle: int,
    last: int,
    units: np.ndarray,
    given: np.ndarray,
    steps: np.ndarray,
    out: np.ndarray,
    adding: bool,
) -> None:
    """Bundles of `size` bytes, of which bundle 0 is at `place`, for so many rows that each group is unpacked once."""
    rows, lower, following = len(given), given.shape[1] // 2, given.strides[0]
    depth = lower // (GROUP + 4)
    totals, weights = np.empty((rows, OUTPUTS), np.float32), np.empty(GROUP * OUTPUTS + LINE, np.uint8)
    spread = weights.ctypes.data + (-weights.ctypes.data) % LINE
    for each in range(bundle, last):
        totals[:] = _F32(0)
        for group in range(depth):
            packed, there = place + each * size + group * LINES * LINE, totals.ctypes.data
            scales, some = packed + (LINES - 1) * LINE, given.ctypes.data + group * GROUP
            sums = given.ctypes.data + depth * GROUP + group * 4
            unpack(packed, spread)
            for _ in range(rows // 3):
                add_group(3, spread, scales, some, sums, lower, following, there)
                some, sums, there = some + 3 * following, sums + 3 * following, there + 3 * OUTPUTS * 4
            if rows % 3 == 2:
                add_group(2, spread, scales, some, sums, lower, following, there)
            elif rows % 3 == 1:
                add_group(1, spread, scales, some, sums, lower, following, there)
        _finish_rows(totals, each * OUTPUTS, units, steps, out, adding)
    weights[0] = 0  # until here it is used


def by_tiles(
    place: int,
    size: int,
    bundle: int,
    last: int,
    units: np.ndarray,
    given: np.ndarray,
    steps: np.ndarray,
    out: np.ndarray,
    adding: bool,
) -> None:
    """The same by AMX, to the bit."""
    rows, lower, following = len(given), given.shape[1] // 2, given.strides[0]
    depth, laid_out = lower // (GROUP + 4), 0
    totals, room = np.empty((rows + ROWS, OUTPUTS), np.float32), np.empty(SPREAD + SCRATCH + LINE, np.uint8)
    spread = room.ctypes.data + (-room.ctypes.data) % LINE
    for each in range(bundle, last):
        totals[:rows] = _F32(0)
        for group in range(0, depth, GROUPS):
            packed, count = place + each * size + group * LINES * LINE, min(GROUPS, depth - group)
            spread_groups(packed, count, spread)
            for row in range(0, rows, ROWS):
                some = min(ROWS, rows - row)
                if some != laid_out:
                    begin_tiles(some)
                    laid_out = some
                add_groups(
                    some,
                    spread,
                    count,
                    packed + (LINES - 1) * LINE,
                    given.ctypes.data + row * following + group * GROUP,
                    lower,
                    following,
                    totals.ctypes.data + row * OUTPUTS * 4,
                    spread + SPREAD,
                )
        _finish_rows(totals[:rows], each * OUTPUTS, units, steps, out, adding)
    end_tiles()
    room[0] = 0  # until here it is used


# Which of them is settled when they are compiled, and machine code is kept apart for it.
multiply_rows = compiled(by_tiles if tiles_granted() else by_vectors)


@compiled
def _finish_rows(
    totals: np.ndarray, first: int, units: np.ndarray, steps: np.ndarray, out: np.ndarray, adding: bool
) -> None:
    for row in range(len(totals)):
        there, target = totals.ctypes.data + row * OUTPUTS * 4, out.ctypes.data + row * out.strides[0] + first * 4
        finish(there, units.ctypes.data + first * 4, steps.ctypes.data + row * 4, target, adding)
