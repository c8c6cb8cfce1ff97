"""A request: one piece of music to make, as a value that is checked when it is made."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hemiola.audio.audio import Audio
from hemiola.errors import InputError
from hemiola.musicgen.sampling import USUAL, Sampling, whole
from hemiola.timebase import Seconds, Timebase, exact_seconds

MAX_SECONDS = 3600  # an hour: longer is a slip of the keyboard more often than a wish
MAX_PROMPT = 2000  # characters: a text is read whole, in memory that grows with its square
SOUNDS = ("prompt_audio", "melody")  # fields that hold a sound

Sound = Audio | str | Path


@dataclass(frozen=True)
class Request:
    """One piece of music to make; immutable, and the same whatever else is made beside it.

    `seconds` is exact: a float means what it prints. Without a `seed` one is drawn, and the result tells which.
    `variation` tells apart pieces of one prompt and seed. `guidance` weighs the prompt (1: unguided); `negative` is
    a prompt to steer away from. No prompt, or a blank one, leaves the model free. `top_k` 0 and `top_p` 1 set no limit;
    temperature 0 always takes the likeliest. What is None of these four is as the checkpoint recommends.

    `prompt_audio` is a clip to go on from, a file or Audio at any rate: `seconds` is the whole, the clip included. The
    codec's whole frames of it are kept, as it plays them; what is left, less than a frame, is written anew.
    `melody` is a tune to follow, for a model that takes one; it begins with the piece, and repeats when it is shorter.
    `window_stride` is how many seconds each window of a long piece adds (None: three fifths of a window).
    Files are read here, once. Raises InputError for a value that cannot be, AudioError for a file that is no sound.
    """

    prompt: str | None = None
    seconds: Seconds = 8
    seed: int | None = None
    variation: int = 0
    top_k: int | None = None
    top_p: float | None = None
    temperature: float | None = None
    guidance: float | None = None
    negative: str | None = None
    prompt_audio: Sound | None = None
    melody: Sound | None = None
    window_stride: Seconds | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "negative"):
            _require_text(name, getattr(self, name))
        _require_duration("seconds", self.seconds)
        if self.window_stride is not None:
            _require_duration("window_stride", self.window_stride)
        for name in ("seed", "variation"):
            if getattr(self, name) is not None or name == "variation":
                object.__setattr__(self, name, whole(name, getattr(self, name)))
        for name, value in vars(self.sampling(USUAL)).items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, value)
        for name in SOUNDS:
            object.__setattr__(self, name, _sound(name, getattr(self, name)))

    def sampling(self, recommended: Sampling) -> Sampling:
        """How tokens are chosen: as this request says, and as is recommended where it says nothing."""
        own = {field.name: getattr(self, field.name) for field in fields(Sampling)}
        return replace(recommended, **{name: value for name, value in own.items() if value is not None})

    @property
    def words(self) -> str | None:
        """The prompt, or None when it is blank."""
        return self.prompt if self.prompt and self.prompt.strip() else None

    @property
    def negative_words(self) -> str | None:
        """The negative prompt, or None when it is blank."""
        return self.negative if self.negative and self.negative.strip() else None

    def samples(self, timebase: Timebase) -> int:
        """Samples asked for; raises InputError when the duration rounds to none."""
        samples = timebase.samples(self.seconds)
        if samples < 1:
            rate = timebase.sample_rate
            raise InputError(f"{self.seconds} s is less than half a sample at {rate} Hz: ask for more seconds")
        return samples

    def settled(self, recommended: Sampling | None = None) -> Request:
        """The same request with a seed, its own or one that is drawn now, and with what is `recommended`."""
        asked = {} if recommended is None else vars(self.sampling(recommended))
        return replace(self, seed=secrets.randbits(32) if self.seed is None else self.seed, **asked)

    def to_dict(self) -> dict[str, Any]:
        """The request as JSON can hold it; `Request(**values)` is the same request again.

        A sound is named by its file. Raises InputError for one that was never in a file.
        """
        return {field.name: _plain(field.name, getattr(self, field.name)) for field in fields(self)}


def _require_text(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise InputError(f"{name} must be text, not {value!r}")
    if len(value) > MAX_PROMPT:
        raise InputError(f"{name} has {len(value)} characters, at most {MAX_PROMPT} make sense: shorten it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} is not text in UTF-8: {value!r}") from None


def _sound(name: str, value: object) -> Audio | None:
    if value is None or isinstance(value, Audio):
        return value
    if not isinstance(value, (str, Path)):
        raise InputError(f"{name} must be a sound file or Audio, not {value!r}")
    return Audio.load(value)


def _plain(name: str, value: Any) -> Any:
    if not isinstance(value, Audio):
        return value if value is None or isinstance(value, (int, float, str)) else str(value)
    if value.source is None:
        raise InputError(f"{name} is in no file, so its request cannot be written down: save it, and name the file")
    return str(value.source)


def _require_duration(name: str, seconds: Seconds) -> None:
    remedy = f"{name} must be above 0 and at most {MAX_SECONDS} (an hour)"
    try:
        exact = exact_seconds(seconds)
    except ValueError as error:
        raise InputError(f"{error}: {remedy}") from None
    if not 0 < exact <= MAX_SECONDS:
        raise InputError(f"{remedy}, not {seconds}")
