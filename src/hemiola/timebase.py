"""Time, exactly: the one place where a duration meets a sample rate.

A codec runs at two rates, samples and frames, tied by its hop. Mixing up two frame rates, or frames with decoding
steps, is the bug this file exists to prevent: everything is an integer or a Fraction, and all else asks here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from numbers import Rational, Real

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

    def whole_frames(self, samples: int) -> int:
        """Frames that `samples` fill; what is left over is less than a frame."""
        return _count(samples, "samples") // self.hop

    def frame_near(self, seconds: Seconds) -> int:
        """The frame that begins nearest to `seconds`; a half rounds up."""
        return math.floor(exact_seconds(seconds) * self.frame_rate + Fraction(1, 2))

    def samples_of(self, frames: int) -> int:
        """Samples that `frames` whole frames decode to."""
        return _count(frames, "frames") * self.hop

    def seconds(self, samples: int) -> Fraction:
        """The duration of `samples`, exact."""
        return Fraction(_count(samples, "samples"), self.sample_rate)

    def moment(self, place: float) -> float:
        """The second at which a place between frames lies, counted in frames from the start: 1.5 is in the second."""
        return place * self.hop / self.sample_rate

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
    number = _number(seconds)
    if number < 0:
        raise ValueError(f"a duration cannot be negative: {_shown(seconds)} s")
    if number > MAX_SECONDS:
        raise ValueError(f"a duration of {_shown(seconds)} s is longer than a day ({MAX_SECONDS} s)")
    # The exponent may be anything, and Fraction would write all its zeros out: 1e-999999999 is nothing on any clock.
    return Fraction(0) if isinstance(number, Decimal) and number.adjusted() < -30 else Fraction(number)


def _number(seconds: Seconds) -> Decimal | Fraction:
    """What was meant, exact and finite, but not yet checked to be in range."""
    if isinstance(seconds, bool) or not isinstance(seconds, (Real, Decimal, str)):
        raise ValueError(f"not a duration in seconds: '{_shown(seconds)}'")
    try:
        if isinstance(seconds, Rational):
            return Fraction(int(seconds.numerator), int(seconds.denominator))
        text = str(seconds)
        number = Fraction(text) if "/" in text else Decimal(text.strip())
    except (ValueError, ArithmeticError):
        raise ValueError(f"not a duration in seconds: '{_shown(seconds)}'") from None
    if isinstance(number, Decimal) and not number.is_finite():
        raise ValueError(f"a duration must be a finite number of seconds, not {seconds}")
    return number


def _shown(seconds: object) -> str:
    try:
        text = str(seconds)
    except ValueError:  # an int of more than 4300 digits will not print
        return "1e4300 or more"
    return text if len(text) <= 40 else f"{text[:40]}..."


def _count(value: int, name: str) -> int:
    try:
        number = value.__index__()
    except AttributeError:
        raise ValueError(f"{name} must be a whole number, not {value!r}") from None
    if number < 0:
        raise ValueError(f"{name} cannot be negative: {number}")
    return number
