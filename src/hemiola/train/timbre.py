"""Timbre: which instrument leads a piece, by linear rules on what its spectrum holds and how that moves.

The rules are fitted by benchmarks/fit_timbre.py on synthetic music, as it is and as a codec gives it back, and kept in
fitted_timbre.safetensors with the names they know and how often they were right.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import safe_open

from hemiola.train.spectra import Array

FITTED = Path(__file__).with_name("fitted_timbre.safetensors")
_LAGS = (2, 8)  # moments of 8 ms: how fast and how far a level rises and falls
_OCTAVES_FROM_HZ, _OCTAVES_TO_HZ, _SLICES = 120, 10_000, 19
_BAND_FLOOR, _BIN_FLOOR = 1e-7, 1e-9  # of power, below full scale; what lies under it is no timbre


def features(bands: Array, spectrum: Array, sample_rate: int) -> Array:
    """Magnitudes of bands [moments, 36] and of bins of long windows [frames, bins] -> float32 [398].

    Of each band: mean, spread, loud and quiet level, rises and falls. Of each slice of the spectrum: how far its
    partials stand above what is between them.
    """
    levels = np.log(bands**2 + _BAND_FLOOR)
    found = [levels.mean(axis=0), levels.std(axis=0), *np.percentile(levels, (95, 20), axis=0)]
    for lag in _LAGS:
        steps = levels[lag:] - levels[:-lag] if len(levels) > lag else np.zeros_like(levels)
        found += [
            np.maximum(steps, 0).mean(axis=0),
            np.maximum(-steps, 0).mean(axis=0),
            np.percentile(steps, 97, axis=0),
        ]
    return np.concatenate([*found, _contrast(spectrum, sample_rate)]).astype(np.float32)


def _contrast(spectrum: Array, sample_rate: int) -> Array:
    """Mean and spread over frames of each slice's highest eighth of bins above its lower half, in log power."""
    levels = np.log(spectrum**2 + _BIN_FLOOR)
    hz = np.linspace(0, sample_rate / 2, levels.shape[1])
    edges = np.searchsorted(hz, np.geomspace(_OCTAVES_FROM_HZ, _OCTAVES_TO_HZ, _SLICES + 1))
    found = []
    for low, high in pairwise(edges):
        ranked = np.sort(levels[:, low : max(high, low + 2)], axis=1)
        width = ranked.shape[1]
        above = ranked[:, -max(1, width // 8) :].mean(axis=1) - ranked[:, : max(1, width // 2)].mean(axis=1)
        found += [above.mean(), above.std()]
    return np.array(found)


@dataclass(frozen=True, eq=False)
class Fitted:
    """The rules: weights [2, names, features] and bias [2, names] for music as it is and as a codec gives it back.

    `coded_weights` [features] and `coded_bias` [1] tell the two apart, above 0 what a codec gave back.
    """

    names: tuple[str, ...]
    weights: Array
    bias: Array
    coded_weights: Array
    coded_bias: Array

    def scores(self, heard: Array) -> Array:
        """`features` -> a score for each name, in nats."""
        coded = int(self.coded_weights @ heard + self.coded_bias[0] > 0)
        return self.weights[coded] @ heard + self.bias[coded]


def probabilities(heard: Array) -> dict[str, float]:
    """`features` -> how likely each instrument leads."""
    rule = _fitted()
    scores = rule.scores(heard)
    shares = np.exp(scores - scores.max())
    return dict(zip(rule.names, (shares / shares.sum()).tolist()))


@lru_cache(maxsize=1)
def _fitted() -> Fitted:
    with safe_open(FITTED, "numpy") as file:
        names = tuple(file.metadata()["names"].split(","))
        # An open safetensors file has keys() and cannot be iterated.
        return Fitted(names, **{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
