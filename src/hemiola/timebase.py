"""Time, exactly: the one place where a duration meets a sample rate.

A codec runs at two rates, samples and frames, tied by its hop. Mixing up two frame rates, or frames with decoding
steps, is the bug this file exists to prevent: everything is an integer or a Fraction, and all else asks here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

Seconds = int | float | str | Decimal | Fraction

MAX_SECONDS = 24 * 60 * 60


@dataclass(frozen=True)
class Timebase:
    """A codec's clock: `sample_rate` samples a second, `hop` samples a frame."""

    sample_rate: int
    hop: int

    def __post_init__(self) -> None:
        for name in ("sample_rate", "hop"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second, exact."""
        return Fraction(self.sample_rate, self.hop)

    def samples(self, seconds: Seconds) -> int:
        """The whole number of samples nearest to `seconds`; a half rounds up."""
        return math.floor(exact_seconds(seconds) * self.sample_rate + Fraction(1, 2))

    def frames(self, samples: int) -> int:
        """Frames needed to cover `samples` (the last one may be partly used)."""
        return -(-_count(samples, "samples") // self.hop)

    def samples_of(self, frames: int) -> int:
        """Samples that `frames` whole frames decode to."""
        return _count(frames, "frames") * self.hop

    def seconds(self, samples: int) -> Fraction:
        """The duration of `samples`, exact."""
        return Fraction(_count(samples, "samples"), self.sample_rate)

    def center(self, total: int, frames: int) -> slice:
        """The samples in the middle of `total` that `frames` frames span.

        Raises ValueError when the frames are longer than the whole, or cannot be centred on a sample.
        """
        spare = _count(total, "total") - self.samples_of(frames)
        if spare < 0:
            raise ValueError(f"{frames} frames are {self.samples_of(frames)} samples, more than the {total} there are")
        if spare % 2:
            raise ValueError(f"{frames} frames cannot be centred in {total} samples: {spare} left over is odd")
        return slice(spare // 2, total - spare // 2)


def exact_seconds(seconds: Seconds) -> Fraction:
    """`seconds` as a Fraction; a float means what it prints, so 0.1 is 1/10.

    Raises ValueError for anything that is not a finite number from 0 to MAX_SECONDS (a day).
    """
    value = _fraction(seconds)
    if value < 0:
        raise ValueError(f"a duration cannot be negative: {seconds} s")
    if value > MAX_SECONDS:
        raise ValueError(f"a duration of {seconds} s is longer than a day ({MAX_SECONDS} s)")
    return value


def _fraction(seconds: Seconds) -> Fraction:
    if isinstance(seconds, (bool, complex)) or not isinstance(seconds, (int, float, str, Decimal, Fraction)):
        raise ValueError(f"not a duration in seconds: {seconds!r}")
    try:
        # A Decimal first: `1e999999999` would take Fraction for ever, and nan or inf must be named, not raised through.
        if not isinstance(seconds, (Fraction, int)) and "/" not in str(seconds):
            number = Decimal(str(seconds).strip())
            if not number.is_finite():
                raise ValueError(f"a duration must be a finite number of seconds, not {seconds}")
            if number and not -30 < number.adjusted() < 30:
                return Fraction(0) if number.adjusted() < 0 else Fraction(10**30 if number > 0 else -1)
            return Fraction(number)
        return Fraction(seconds)
    except (InvalidOperation, ZeroDivisionError, OverflowError):
        raise ValueError(f"not a duration in seconds: {seconds!r}") from None
    except ValueError as error:
        if "finite" in str(error):
            raise
        raise ValueError(f"not a duration in seconds: {seconds!r}") from None


def _count(value: int, name: str) -> int:
    try:
        number = value.__index__()
    except AttributeError:
        raise ValueError(f"{name} must be a whole number, not {value!r}") from None
    if number < 0:
        raise ValueError(f"{name} cannot be negative: {number}")
    return number
