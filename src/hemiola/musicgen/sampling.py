"""Sampling: how a token is chosen, what a checkpoint recommends of that, and the noise that chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from hemiola.errors import InputError, WeightsError
from hemiola.weights import keys

LARGEST_SEED = 2**64 - 1
LARGEST_SETTING = 1000  # of guidance and temperature: far beyond sense, and safe in float32
LEAST_TEMPERATURE = 0.001  # below it, 0 is what is meant
RECOMMENDED = "generation_config.json"  # transformers' name for the file
_THEIRS = {"guidance": "guidance_scale", "top_k": "top_k", "top_p": "top_p", "temperature": "temperature"}


def whole(name: str, value: object) -> int:
    """A value that can be a seed, as an int; raises InputError for any other, by the name of the setting."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) <= LARGEST_SEED:
        raise InputError(f"{name} must be a whole number from 0 to {LARGEST_SEED}, not {value!r}")
    return int(value)


def _number(name: str, value: object) -> float:
    # typeshed gives Real no comparison with a whole number; every number that is one has it.
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= LARGEST_SETTING:  # type: ignore[operator]
        raise InputError(f"{name} must be a number from 0 to {LARGEST_SETTING}, not {value!r}")
    return float(value)


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; guidance first, then temperature, then top-k, then top-p of what is left.

    `guidance` weighs the text (1: the text's own distribution). `top_k` keeps the k likeliest tokens, and those as
    likely as the k-th; None or 0 keeps all. `top_p` keeps the fewest likeliest tokens whose probabilities reach p; None
    keeps all. Temperature 0 takes the likeliest token. The defaults are audiocraft's. Raises InputError for a value
    that cannot be.
    """

    guidance: float = 3.0
    top_k: int | None = 250
    top_p: float | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None or name in ("guidance", "temperature"):
                checked = whole(name, value) if name == "top_k" else _number(name, value)
                object.__setattr__(self, name, checked)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise InputError(f"temperature must be 0 or at least {LEAST_TEMPERATURE}, not {self.temperature}")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken, with no draw."""
        return self.temperature == 0

    @classmethod
    def from_folder(cls, folder: Path) -> Sampling:
        """As a checkpoint's generation_config.json recommends; raises WeightsError where it says what cannot be."""
        path = folder / RECOMMENDED
        if not path.exists():
            return cls()
        values = keys.json_of(path)
        said = {ours: values[theirs] for ours, theirs in _THEIRS.items() if values.get(theirs) is not None}
        try:
            return cls(**said)
        except InputError as error:
            raise WeightsError(f"{path} cannot be used: {error}") from None

    def to_dict(self) -> Mapping[str, Any]:
        """Under transformers' names, without what is None."""
        values = {theirs: getattr(self, ours) for ours, theirs in _THEIRS.items()}
        return {name: value for name, value in values.items() if value is not None}


USUAL = Sampling()


def draws(seed: int, variation: int, steps: range, codebooks: int, vocab_size: int) -> np.ndarray:
    """A whole number of 32 bits for every token of every place, uint32 [len(steps), codebooks, vocab_size].

    Counter-based (Philox 4x64): those of a seed, variation, step and codebook are the same whatever else is drawn, in
    any batch and on any backend. Steps count from 0 and rise by 1. Raises InputError for a bad seed.
    """
    seed, variation = whole("seed", seed), whole("variation", variation)
    drawn = np.empty((len(steps), codebooks, vocab_size), dtype=np.uint32)
    # One turn of the counter gives four numbers, and each step begins with a turn of its own.
    turns = -(-vocab_size // 4)
    for codebook in range(codebooks):
        counter = np.array([steps.start * turns, codebook, 0, 0], np.uint64)
        stream = np.random.Philox(key=np.array([seed, variation], np.uint64), counter=counter)
        raw = stream.random_raw(len(steps) * turns * 4).reshape(len(steps), -1)[:, :vocab_size]
        drawn[:, codebook] = raw >> np.uint64(32)
    return drawn


def gumbels(drawn: np.ndarray) -> np.ndarray:
    """Draws -> standard Gumbel noise, float32 of the same shape; the larger the draw, the larger the noise.

    The token whose logit plus noise is the largest is a draw from the softmax of the logits (Gumbel-max; Maddison,
    Tarlow and Minka 2014). Two backends whose logits differ in their last digits then differ in a token only where
    the best two lie that close: an inverse of the cumulative sum has as many such edges as there are tokens.
    """
    # A half more: between 0 and 1, and never one of them.
    return (-np.log(-np.log((drawn + 0.5) * 2.0**-32))).astype(np.float32)
