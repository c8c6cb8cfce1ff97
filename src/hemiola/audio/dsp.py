"""Small measures of, and changes to, float32 [channels, samples]: fades, peak, RMS."""

from __future__ import annotations

import numpy as np


def fade_in(samples: np.ndarray, length: int) -> np.ndarray:
    """A copy whose first `length` samples rise from silence on half a cosine; a shorter clip rises over all of it."""
    length = min(length, samples.shape[-1])
    faded = samples.copy()
    faded[..., :length] *= _rise(length)
    return faded


def fade_out(samples: np.ndarray, length: int) -> np.ndarray:
    """A copy whose last `length` samples fall to silence: `fade_in` backwards."""
    return np.ascontiguousarray(fade_in(samples[..., ::-1], length)[..., ::-1])


def peak(samples: np.ndarray) -> float:
    """The largest absolute value; 1.0 is full scale, and no samples peak at 0.0."""
    return float(np.abs(samples).max(initial=0.0))


def rms(samples: np.ndarray, window: int | None = None) -> np.ndarray:
    """Root mean square over all channels, one float64 for each `window` samples (None: one for everything).

    The last window may be shorter, and is then the mean of what is in it.
    """
    power = np.square(samples, dtype=np.float64).mean(axis=0)
    starts = np.arange(0, power.size, window or power.size)
    sums = np.add.reduceat(power, starts)
    return np.sqrt(sums / np.diff(starts, append=power.size))


def rms_db(samples: np.ndarray, window: int | None = None) -> np.ndarray:
    """`rms` in dB below full scale: a square wave of height 1 is 0 dB, silence is minus infinity."""
    with np.errstate(divide="ignore"):
        return 20 * np.log10(rms(samples, window))


def _rise(length: int) -> np.ndarray:
    # Taken at the middle of each sample, so that fade-in and fade-out of one length add up to 1.
    middles = (np.arange(length) + 0.5) / max(length, 1)
    return (0.5 - 0.5 * np.cos(np.pi * middles)).astype(np.float32)
