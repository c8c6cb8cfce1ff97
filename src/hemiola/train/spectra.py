"""Spectra and what is read off them: bands, pitch classes, repetition and peaks, in numpy."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BANDS, LOWEST_HZ, HIGHEST_HZ = 36, 40.0, 11_000.0
FLOOR = 1e-8


def magnitudes(samples: Array, window: int, hop: int) -> Array:
    """Magnitude spectra [frames, window // 2 + 1] of centred Hann windows, the ends padded with silence."""
    padded = np.pad(samples, (window // 2, window - window // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    shape = np.hanning(window + 1)[:-1].astype(np.float32)
    return (np.abs(np.fft.rfft(frames * shape, axis=1)) * (2 / shape.sum())).astype(np.float32)


@lru_cache(maxsize=8)
def band_weights(bins: int, sample_rate: int) -> Array:
    """Triangular averages [36, bins] on a scale of pitch; a band narrower than a bin keeps its nearest bin."""
    hz = np.linspace(0, sample_rate / 2, bins)
    edges = np.geomspace(LOWEST_HZ, HIGHEST_HZ, BANDS + 2)
    lower, center, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    weights = np.maximum(np.minimum((hz - lower) / (center - lower), (upper - hz) / (upper - center)), 0)
    empty = weights.sum(axis=1) == 0
    weights[empty, np.abs(hz - center).argmin(axis=1)[empty]] = 1
    return (weights / np.maximum(weights.sum(axis=1, keepdims=True), FLOOR)).astype(np.float32)


@lru_cache(maxsize=8)
def pitch_class_weights(bins: int, sample_rate: int, lowest_hz: float, highest_hz: float, spread: float) -> Array:
    """Weights [12, bins]: each bin counts for its pitch class, less when it is out of tune by `spread` semitones."""
    hz = np.linspace(0, sample_rate / 2, bins)
    heard = np.flatnonzero((hz > lowest_hz) & (hz < highest_hz))
    pitch = 69 + 12 * np.log2(hz[heard] / 440)
    weights = np.zeros((12, bins), np.float32)
    weights[np.round(pitch).astype(int) % 12, heard] = np.exp(-0.5 * ((pitch - np.round(pitch)) / spread) ** 2)
    return weights


def smoothed(values: Array, width: int) -> Array:
    """The mean of `width` (odd) values around each."""
    return np.convolve(np.pad(values, width // 2, mode="edge"), np.full(width, 1 / width), "valid")


def autocorrelation(values: Array) -> Array:
    """Mean product at each lag, 1 at lag 0."""
    power = np.abs(np.fft.rfft(values, 2 * len(values))) ** 2
    products = np.fft.irfft(power)[: len(values)] / np.arange(len(values), 0, -1)
    return products / products[0]


def peaks(novelty: Array, moments_a_second: float) -> Array:
    """Local maxima well above what is around them, in seconds."""
    near = round(0.05 * moments_a_second)
    padded = np.pad(novelty, near)
    highest = np.lib.stride_tricks.sliding_window_view(padded, 2 * near + 1).max(axis=1)
    wide = smoothed(novelty, 2 * int(moments_a_second / 4) + 1)
    loud = max(float(np.percentile(novelty, 98.5)), FLOOR)
    picked = (novelty == highest) & (novelty > wide + 0.15 * loud) & (novelty > 0)
    # A rise over four moments is steepest when the onset is one and a half old.
    return np.maximum(np.flatnonzero(picked) - 1.5, 0) / moments_a_second
