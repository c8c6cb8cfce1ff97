"""The finish of a piece: in this order another sample rate, fades, and loudness, which is measured on what is heard."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

import numpy as np

from hemiola.audio import dsp
from hemiola.audio.audio import Audio
from hemiola.audio.io import CEILING
from hemiola.audio.loudness import BLOCK_SECONDS, gain_between, integrated_lufs
from hemiola.errors import InputError
from hemiola.timebase import Seconds, Timebase, exact_seconds

LOWEST_HZ, HIGHEST_HZ = 4000, 384_000
QUIETEST_LUFS = -70  # the gate of BS.1770: below it nothing is measured
MISS_LU = 0.05  # what is worth telling: it shows in the first decimal


@dataclass(frozen=True)
class Finish:
    """What to do to a piece that is made; the defaults leave it as it is. Raises InputError for what cannot be.

    sample_rate in Hz; fades in seconds, exact; loudness in LUFS, integrated.
    """

    sample_rate: int | None = None
    fade_in: Seconds = 0
    fade_out: Seconds = 0
    loudness: float | None = None

    def __post_init__(self) -> None:
        if self.sample_rate is not None and not _is_rate(self.sample_rate):
            raise InputError(f"sample_rate must be a whole number from {LOWEST_HZ} to {HIGHEST_HZ} Hz")
        for name in ("fade_in", "fade_out"):
            _checked(name, getattr(self, name))
        if self.loudness is not None and not _is_loudness(self.loudness):
            raise InputError(f"loudness must be a number of LUFS from {QUIETEST_LUFS} to 0, not {self.loudness!r}")

    def require_room(self, seconds: Seconds) -> None:
        """Raise InputError when a piece of that duration is too short for what is asked."""
        duration, fades = _checked("seconds", seconds), exact_seconds(self.fade_in) + exact_seconds(self.fade_out)
        if fades > duration:
            raise InputError(f"the fades take {float(fades):g} s, the piece has {float(duration):g} s: shorten them")
        if self.sample_rate is not None and Timebase(self.sample_rate, 1).samples(duration) < 1:
            raise InputError(f"{seconds} s is less than half a sample at {self.sample_rate} Hz: ask for more seconds")
        if self.loudness is not None and duration < BLOCK_SECONDS:
            raise InputError(f"loudness is not defined below {float(BLOCK_SECONDS)} s: leave out --loudness")

    def apply(self, audio: Audio, seconds: Seconds | None = None) -> Finished:
        """Finish a piece of that duration (None: as long as it is): it has the samples of it at the new rate, exactly.

        Raises InputError as `require_room` does.
        """
        duration = audio.seconds if seconds is None else exact_seconds(seconds)
        self.require_room(duration)
        if self.sample_rate not in (None, audio.sample_rate):
            audio = audio.resample(self.sample_rate, duration)
        clock = Timebase(audio.sample_rate, 1)
        samples = dsp.fade_in(audio.samples, clock.samples(self.fade_in))
        samples = dsp.fade_out(samples, clock.samples(self.fade_out))
        if self.loudness is None:
            return Finished(Audio(samples, audio.sample_rate))
        return _levelled(samples, audio.sample_rate, self.loudness)

    def to_dict(self) -> dict[str, Any]:
        """The settings that are not the default, as JSON can hold them; `Finish(**values)` is the same again."""
        changed = {name: value for name, value in asdict(self).items() if value != DEFAULTS[name]}
        return {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in changed.items()}


DEFAULTS = {field.name: field.default for field in fields(Finish)}


@dataclass(frozen=True, eq=False)
class Finished:
    """A finished piece; its loudness in LUFS where one was asked for, and whether more would have clipped."""

    audio: Audio
    loudness: float | None = None
    is_limited: bool = False


def _levelled(samples: np.ndarray, sample_rate: int, target: float) -> Finished:
    """Bring samples to a loudness, or as near to it as full scale allows."""
    first = integrated_lufs(samples, sample_rate)
    if first == -math.inf:
        return Finished(Audio(samples, sample_rate), first)
    most, gain = CEILING / dsp.peak(samples), gain_between(first, target)
    # The gate is absolute, so what passes it changes with the gain: near the target it is what it will be.
    second = integrated_lufs(samples * np.float32(gain), sample_rate)
    gain *= gain_between(second, target) if math.isfinite(second) else 1
    levelled = samples * np.float32(min(gain, most))
    reached = integrated_lufs(levelled, sample_rate)
    return Finished(Audio(levelled, sample_rate), reached, is_limited=gain > most and target - reached > MISS_LU)


def _checked(name: str, seconds: Seconds) -> Fraction:
    try:
        return exact_seconds(seconds)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


def _is_rate(value: object) -> bool:
    return type(value) is int and LOWEST_HZ <= value <= HIGHEST_HZ


def _is_loudness(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and QUIETEST_LUFS < value <= 0
