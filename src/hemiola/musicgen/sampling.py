"""Sampling: how a token is chosen, and the uniform numbers that choose it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hemiola.errors import InputError

LARGEST_SEED = 2**64 - 1


@dataclass(frozen=True)
class Sampling:
    """Settings of one request; temperature first, then top-k, then top-p of what is left.

    `top_k` keeps the k likeliest tokens, and those as likely as the k-th; None or 0 keeps all. `top_p` keeps the
    fewest likeliest tokens whose probabilities reach p; None keeps all. Temperature 0 takes the likeliest token.
    """

    top_k: int | None = 250
    top_p: float | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.top_k is not None and (isinstance(self.top_k, bool) or not isinstance(self.top_k, int)):
            raise InputError(f"top_k must be a whole number, not {self.top_k!r}")
        if self.top_k is not None and self.top_k < 0:
            raise InputError(f"top_k must be at least 1, or 0 for no limit, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature must be a finite number from 0, not {self.temperature}")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken, with no draw."""
        return self.temperature == 0


def uniforms(seed: int, variation: int, steps: range, codebooks: int) -> np.ndarray:
    """Uniform numbers in (0, 1], float32 [len(steps), codebooks], each a multiple of 2^-24.

    Counter-based (Philox 4x64): the number for a seed, variation, step and codebook is the same whatever else is
    drawn, in any batch and on any backend. Steps count from 0 and rise by 1. Raises InputError for a bad seed.
    """
    for name, value in (("seed", seed), ("variation", variation)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value <= LARGEST_SEED:
            raise InputError(f"{name} must be a whole number from 0 to {LARGEST_SEED}, not {value!r}")
    drawn = np.empty((len(steps), codebooks), dtype=np.float32)
    for codebook in range(codebooks):
        stream = np.random.Philox(key=np.array([seed, variation], np.uint64), counter=[0, codebook, 0, 0])
        raw = stream.random_raw(steps.stop)[steps.start :]
        # 24 bits, the width of a float32's fraction: nothing is rounded, so 0 cannot appear and 1 can.
        drawn[:, codebook] = ((raw >> np.uint64(40)) + np.uint64(1)) * 2.0**-24
    return drawn
