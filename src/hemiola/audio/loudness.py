"""Loudness as a listener has it: integrated, in LUFS, as ITU-R BS.1770-4 defines it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from hemiola.errors import AudioError
from hemiola.timebase import Timebase

BLOCK_SECONDS = Fraction(2, 5)  # what is measured at once; nothing shorter has a loudness
STEP_SECONDS = Fraction(1, 10)


def integrated_lufs(samples: np.ndarray, sample_rate: int) -> float:
    """Float32 [1 or 2 channels, samples] -> LUFS; minus infinity for what is silent, or below the gate at -70 LUFS.

    One channel is one loudspeaker: the same sound from two of them measures 3 LU more. Raises AudioError for audio
    that is shorter than a block, or of more channels.
    """
    import pyloudnorm

    clock = Timebase(sample_rate, 1)
    channels, length = samples.shape
    steps = (clock.seconds(length) - BLOCK_SECONDS) // STEP_SECONDS
    if steps < 0:
        raise AudioError(f"loudness is not defined below {float(BLOCK_SECONDS)} s: leave out --loudness")
    if channels > 2:
        raise AudioError(f"loudness of {channels} channels is not measured: mix to 1 or 2 first")
    # Blocks that are not whole do not count, and the library would take the last one for whole.
    whole = samples[:, : clock.samples(BLOCK_SECONDS + steps * STEP_SECONDS)]
    # Of its filters, the ones that are the standard's own at every rate; the default comes near.
    meter = pyloudnorm.Meter(sample_rate, filter_class="DeMan")
    return float(meter.integrated_loudness(np.ascontiguousarray(whole.T)))


def gain_between(from_lufs: float, to_lufs: float) -> float:
    """The factor that takes sound from one loudness to another."""
    return math.pow(10, (to_lufs - from_lufs) / 20)
