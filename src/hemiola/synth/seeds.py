"""Seeds: which belong to which split, and the independent random streams drawn from one."""

from __future__ import annotations

import numpy as np

from hemiola.errors import InputError

SPLITS = ("train", "valid", "test")
_STRIDE = 4  # one residue for each split; seeds with residue 3 belong to no split and are free for demos
_STREAMS = ("attributes", "music", "timing", "caption")


def split_seed(split: str, index: int) -> int:
    """The seed of piece `index` in a split: 4 * index + the split's place, so no two splits ever share a seed."""
    if split not in SPLITS:
        raise InputError(f"no split is called {split!r}: choose one of {', '.join(SPLITS)}")
    if index < 0:
        raise InputError(f"a piece's index cannot be negative: {index}")
    return _STRIDE * index + SPLITS.index(split)


def stream(seed: int, name: str) -> np.random.Generator:
    """One of the independent random streams of a seed, so that a draw more in one never shifts another."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"a seed must be a whole number from 0 up, not {seed!r}")
    return np.random.Generator(np.random.PCG64([int(seed), _STREAMS.index(name)]))
