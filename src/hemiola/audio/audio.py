"""Audio: samples and their rate, one value."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from hemiola.audio import io
from hemiola.audio.resample import resample
from hemiola.errors import AudioError
from hemiola.timebase import Seconds, Timebase

MAX_CHANNELS = 64


@dataclass(frozen=True, eq=False)
class Audio:
    """Float32 samples [channels, samples], 1.0 at full scale, and their rate in Hz; checked when it is made.

    One channel may be given as [samples]. Values past full scale are kept. `source` is the file it was read from, and
    nothing else has one. Raises AudioError for no samples, for
    values that are not finite, for integers, and for shapes that are not audio.
    """

    samples: np.ndarray
    sample_rate: int
    source: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sample_rate", _checked_rate(self.sample_rate))
        object.__setattr__(self, "samples", _checked_samples(self.samples))

    @classmethod
    def load(cls, path: str | Path) -> Audio:
        """Read a sound file at its own rate and number of channels; raises AudioError."""
        return cls(*io.read(path), Path(path))

    def save(self, path: str | Path, *, force: bool = False, encoding: str | None = None) -> io.Saved:
        """Write a sound file; the extension names the format, `encoding` one of its kinds (`io.FORMATS`).

        The default is float for WAV and 24 bits for FLAC. What would clip is turned down, and the result says by
        how much. Raises OutputError, for an existing file too unless `force` is set.
        """
        return io.write(path, self.samples, self.sample_rate, encoding=encoding, force=force)

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return self.samples.shape[0]

    @property
    def length(self) -> int:
        """Samples per channel."""
        return self.samples.shape[1]

    @property
    def seconds(self) -> Fraction:
        """The duration, exact."""
        return Timebase(self.sample_rate, 1).seconds(self.length)

    def resample(self, sample_rate: int, seconds: Seconds | None = None) -> Audio:
        """The same sound at another rate, in the whole number of samples nearest to its duration.

        `seconds` is the duration that was meant, where it is no whole number of samples at the rate it has now.
        """
        rate = _checked_rate(sample_rate)
        if rate == self.sample_rate:
            return self
        length = None if seconds is None else Timebase(rate, 1).samples(seconds)
        return Audio(resample(self.samples, self.sample_rate, rate, length), rate)

    def to_channels(self, channels: int) -> Audio:
        """One channel doubled into two, or any number averaged into one; raises AudioError for other changes."""
        if channels == self.channels:
            return self
        if channels == 1:
            return Audio(self.samples.mean(axis=0, keepdims=True), self.sample_rate)
        if channels == 2 and self.channels == 1:
            return Audio(np.repeat(self.samples, 2, axis=0), self.sample_rate)
        raise AudioError(f"cannot make {channels} channels out of {self.channels}: mix to 1 or 2 first")


def _checked_rate(rate: int) -> int:
    whole = None if isinstance(rate, bool) or not hasattr(rate, "__index__") else rate.__index__()
    if whole is None or whole < 1:
        raise AudioError(f"a sample rate must be a positive whole number of Hz, not {rate!r}")
    return whole


def _checked_samples(samples: np.ndarray) -> np.ndarray:
    array = np.asarray(samples)
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioError(f"samples must be floating point with full scale at 1.0, not {array.dtype}")
    array = array[np.newaxis] if array.ndim == 1 else array
    if array.ndim != 2:
        raise AudioError(f"samples must be [channels, samples], not {list(array.shape)}")
    if array.size == 0:
        raise AudioError(f"audio of shape {list(array.shape)} is empty")
    if array.shape[0] > MAX_CHANNELS:
        raise AudioError(
            f"samples {list(array.shape)} are {array.shape[0]} channels, at most {MAX_CHANNELS}: transposed?"
        )
    # A float64 value may be finite and still be too large for float32.
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise AudioError("samples hold values that are not finite (NaN or infinity)")
    return array
