"""The position embedding: a table of cosines and sines, computed and never stored."""

from __future__ import annotations

import functools

import numpy as np


@functools.lru_cache(maxsize=8)
def sinusoids(positions: int, width: int) -> np.ndarray:
    """Float32 [positions, width], read-only: the first half cosines, the second half sines.

    The phase is position / 10000^(i / (width / 2 - 1)), worked out in float64 so that every backend adds the same.
    """
    half = width // 2
    periods = 10000.0 ** (np.arange(half) / (half - 1))
    phases = np.arange(positions)[:, None] / periods[None, :]
    table = np.concatenate([np.cos(phases), np.sin(phases)], axis=1).astype(np.float32)
    table.setflags(write=False)
    return table
