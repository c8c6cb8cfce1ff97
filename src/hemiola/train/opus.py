"""Opus at its lowest rate: the codec of calls and streams, as a yardstick for neural ones."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from hemiola.audio.resample import resample
from hemiola.errors import BackendError

Array = NDArray[Any]

_RATE = 48_000  # Hz, at which Opus works inside
_SMALLEST = 1.0  # of libsndfile's compression levels: 6 kbps a channel, the least that Opus is made for


def available() -> bool:
    """Whether this libsndfile can write Opus."""
    return "OPUS" in soundfile.available_subtypes("OGG")


def through_opus(audio: Array, sample_rate: int) -> tuple[Array, float]:
    """Audio float32 [channels, samples] -> (what Opus makes of it, as long as before; kilobits of the Ogg file).

    Raises BackendError where libsndfile was built without Opus.
    """
    if not available():
        raise BackendError("this libsndfile cannot write Opus: install soundfile from PyPI, which brings one that can")
    file = io.BytesIO()
    inside = resample(audio, sample_rate, _RATE)
    soundfile.write(file, inside.T, _RATE, format="OGG", subtype="OPUS", compression_level=_SMALLEST)
    kilobits = 8 * len(file.getvalue()) / 1000
    file.seek(0)
    back, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return resample(np.ascontiguousarray(back.T), rate, sample_rate, audio.shape[-1]), kilobits
