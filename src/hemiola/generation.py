"""Text to music: a request becomes a stream of blocks, and the blocks become a result.

Three storeys: a decoding step (musicgen/decode.py), a stream of blocks, and whole results. Python, the command line
and a server all call this file.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from hemiola.audio.audio import Audio
from hemiola.errors import InputError
from hemiola.musicgen.batch import Job
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.sampling import LARGEST_SEED, Sampling
from hemiola.musicgen.windows import Window, window_frames, windows
from hemiola.timebase import Seconds, Timebase, exact_seconds

DEFAULT_MODEL = "sketch"
MAX_SECONDS = 3600  # an hour: longer is a slip of the keyboard more often than a wish
MAX_PROMPT = 2000  # characters: a text is read whole, in memory that grows with its square

Progress = Callable[[int, int], None]
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Request:
    """One piece of music to make; immutable, and the same whatever else is made beside it.

    `seconds` is exact: a float means what it prints. Without a `seed` one is drawn, and the result tells which.
    `variation` tells apart pieces of one prompt and seed. `guidance` weighs the prompt (1: unguided); `negative` is
    a prompt to steer away from. No prompt, or a blank one, leaves the model free. `top_k` 0 and `top_p` None set no
    limit; temperature 0 always takes the likeliest. Raises InputError for a value that can not be.
    """

    prompt: str | None = None
    seconds: Seconds = 8
    seed: int | None = None
    variation: int = 0
    top_k: int = 250
    top_p: float | None = None
    temperature: float = 1.0
    guidance: float = 3.0
    negative: str | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "negative"):
            _require_text(name, getattr(self, name))
        _require_duration(self.seconds)
        for name in ("seed", "variation", "top_k"):
            if name != "seed" or self.seed is not None:
                object.__setattr__(self, name, _whole(name, getattr(self, name)))
        for name in ("top_p", "temperature", "guidance"):
            _require_number(name, getattr(self, name), optional=name == "top_p")
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        """How tokens are picked."""
        return Sampling(self.top_k, self.top_p, self.temperature)

    def samples(self, timebase: Timebase) -> int:
        """Samples asked for; raises InputError when the duration rounds to none."""
        samples = timebase.samples(self.seconds)
        if samples < 1:
            rate = timebase.sample_rate
            raise InputError(f"{self.seconds} s is less than half a sample at {rate} Hz: ask for more seconds")
        return samples

    def settled(self) -> Request:
        """The same request with a seed: its own, or one that is drawn now."""
        return self if self.seed is not None else replace(self, seed=secrets.randbits(32))

    def to_dict(self) -> dict[str, Any]:
        """The request as JSON can hold it; `Request(**values)` is the same request again."""
        exact = self.seconds if isinstance(self.seconds, (int, float, str)) else str(self.seconds)
        return {**asdict(self), "seconds": exact}


@dataclass(frozen=True, eq=False)
class Block:
    """Frames [start, start + n) of each request's music: codes int32 [codebooks, n], empty where a piece has ended."""

    start: int
    codes: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Result:
    """A finished piece: the request with its seed, codes int32 [codebooks, frames], and audio."""

    request: Request
    codes: np.ndarray
    audio: Audio


class MusicGen:
    """A text-to-music model ready to use; it holds nothing of any request."""

    def __init__(self, model: MusicgenModel) -> None:
        self.model = model

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT_MODEL,
        *,
        backend: str = "auto",
        device: str = "auto",
        dtype: str = "float32",
        allow_pickle: bool = False,
    ) -> MusicGen:
        """Load `sketch` (bundled), a folder, or a hub name such as `facebook/musicgen-small@revision`.

        Raises WeightsError, DownloadError or BackendError.
        """
        return cls(
            MusicgenModel.from_pretrained(
                name_or_path, backend=backend, device=device, dtype=dtype, allow_pickle=allow_pickle
            )
        )

    @property
    def timebase(self) -> Timebase:
        """The codec's clock."""
        return self.model.timebase

    @property
    def sampling_rate(self) -> int:
        """Samples a second, in Hz."""
        return self.model.sampling_rate

    @property
    def channels(self) -> int:
        """Channels of the music: 1 or 2."""
        return self.model.channels

    def generate(
        self, requests: Sequence[Request], *, progress: Progress | None = None, stop: Stop | None = None
    ) -> list[Result]:
        """Make every request's music, side by side; each is as long as it asks, to the sample.

        `progress(done, total)` counts decoding steps. Once `stop()` is true no further step is taken, and only the
        pieces that are whole by then come back. Raises InputError for no requests, or one that rounds to no sample.
        """
        requests = [request.settled() for request in requests]
        parts: list[list[np.ndarray]] = [[] for _ in requests]
        for block in self.stream(requests, progress=progress, stop=stop):
            for part, codes in zip(parts, block.codes):
                part.append(codes)
        joined = [np.concatenate(part, axis=1) for part in parts if part]
        return [
            self._result(request, codes)
            for request, codes in zip(requests, joined)
            if codes.shape[1] == self._frames(request)
        ]

    def stream(
        self,
        requests: Sequence[Request],
        *,
        block_frames: int | None = None,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> Iterator[Block]:
        """Codes as they are made, in blocks of at least `block_frames` frames (None: a window at a time).

        A piece longer than the model's window is written window by window, each prompted with the end of the last.
        A request without a seed is settled here, where nobody learns it. Raises as `generate` does.
        """
        requests = [request.settled() for request in requests]
        if not requests:
            raise InputError("there is nothing to make: give at least one request")
        frames = [self._frames(request) for request in requests]
        rounds = list(windows(max(frames), window_frames(self.model.config)))
        written = [np.zeros((self.model.codebooks, 0), np.int32) for _ in requests]
        counted = _Counted(rounds, self.model.config.decoder.pattern.longest, progress)
        for window in rounds:
            live = [index for index, total in enumerate(frames) if window.first < total]
            jobs = [_job(requests[index], window, frames[index], written[index]) for index in live]
            at = window.start
            for block in self.model.tokens(jobs, block_frames=block_frames, progress=counted.of(window), stop=stop):
                # A window's blocks begin with its prompt, which went out with the window before.
                start, at = max(at, window.first), at + block.shape[-1]
                if at <= start:
                    continue
                codes = [each[:, :0] for each in written]
                for index, rows in zip(live, block):
                    codes[index] = rows[:, start - at :][:, : max(0, frames[index] - start)]
                    written[index] = np.concatenate([written[index], codes[index]], axis=1)
                yield Block(start, tuple(codes))
            if at < window.start + window.frames:
                return  # stopped

    def _frames(self, request: Request) -> int:
        return self.timebase.frames(request.samples(self.timebase))

    def _result(self, request: Request, codes: np.ndarray) -> Result:
        samples = self.model.decode(codes, request.samples(self.timebase))
        return Result(request, codes, Audio(samples, self.sampling_rate))


def generate(
    prompt: str,
    *,
    seconds: Seconds = 8,
    seed: int | None = None,
    model: str | Path = DEFAULT_MODEL,
    backend: str = "auto",
    device: str = "auto",
    dtype: str = "float32",
    **settings: Any,
) -> Audio:
    """Music for a prompt, exactly `seconds` long; `settings` are the other fields of Request.

    The model stays loaded for the next call. Raises InputError, WeightsError or BackendError.
    """
    request = Request(prompt, seconds, seed, **settings)
    loaded = _loaded(str(model), backend, device, dtype)
    return loaded.generate([request])[0].audio


@lru_cache(maxsize=1)
def _loaded(model: str, backend: str, device: str, dtype: str) -> MusicGen:
    return MusicGen.from_pretrained(model, backend=backend, device=device, dtype=dtype)


def _job(request: Request, window: Window, total: int, written: np.ndarray) -> Job:
    prompt = written[:, window.start :] if window.prompt else None
    return Job(
        text=_said(request.prompt),
        frames=min(window.frames, total - window.start),
        seed=request.seed or 0,
        variation=request.variation,
        sampling=request.sampling,
        guidance=request.guidance,
        negative=_said(request.negative),
        prompt=prompt,
        start=window.start,
    )


def _said(text: str | None) -> str | None:
    """The text, or None when it is blank: a blank prompt is no prompt, and has no words to weigh."""
    return text if text and text.strip() else None


class _Counted:
    """Steps over all windows, so that progress ends at its total: each window takes frames - prompt + delay steps."""

    def __init__(self, rounds: Sequence[Window], delay: int, progress: Progress | None) -> None:
        self._before: dict[Window, int] = {}
        self._total, self._progress = 0, progress
        for each in rounds:
            self._before[each] = self._total
            self._total += each.frames - each.prompt + delay

    def of(self, window: Window) -> Progress | None:
        """What to report steps of one window to."""
        if self._progress is None:
            return None
        report, before, total = self._progress, self._before[window], self._total
        return lambda done, _: report(before + done, total)


def _require_text(name: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name} must be text, not {value!r}")
    if isinstance(value, str) and len(value) > MAX_PROMPT:
        raise InputError(f"{name} has {len(value)} characters, at most {MAX_PROMPT} make sense: shorten it")


def _require_duration(seconds: Seconds) -> None:
    remedy = f"seconds must be above 0 and at most {MAX_SECONDS} (an hour)"
    try:
        exact = exact_seconds(seconds)
    except ValueError as error:
        raise InputError(f"{error}: {remedy}") from None
    if not 0 < exact <= MAX_SECONDS:
        raise InputError(f"{remedy}, not {seconds}")


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) <= LARGEST_SEED:
        raise InputError(f"{name} must be a whole number from 0 to {LARGEST_SEED}, not {value!r}")
    return int(value)


def _require_number(name: str, value: object, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, Real) or not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name} must be a finite number from 0, not {value!r}")
