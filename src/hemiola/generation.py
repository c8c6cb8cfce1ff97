"""Text to music: a request becomes a stream of blocks, and the blocks become a result.

Three storeys: a decoding step (musicgen/decode.py), a stream of blocks, and whole results. Python, the command line
and a server all call this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hemiola.audio.audio import Audio
from hemiola.errors import InputError
from hemiola.musicgen.batch import Job
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.windows import Window, window_frames, windows
from hemiola.request import Request
from hemiola.timebase import Seconds, Timebase

DEFAULT_MODEL = "sketch"
BLOCK_SECONDS = "0.5"  # of a stream: soon heard, and a small part of the work is done anew for each block

Progress = Callable[[int, int], None]
Stop = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class Block:
    """What became final of each request's music, empty where a piece has ended.

    codes: int32 [codebooks, n], frames [start, start + n). audio: float32 [channels, samples], those that go on where
    the block before ended; they lie a little behind the codes, as far as the codec looks ahead.
    """

    start: int
    codes: tuple[np.ndarray, ...]
    audio: tuple[np.ndarray, ...]


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
        quantize: int | None = None,
        allow_pickle: bool = False,
    ) -> MusicGen:
        """Load `sketch` (bundled), a folder, or a hub name such as `facebook/musicgen-small@revision`.

        `dtype` is float32, bfloat16, float16, int8 (float32 with the decoder's matrices in 8 bits) or auto (fast
        without being heard). `quantize` keeps the matrices in 8 bits, on MLX also in 4: not the same music.
        Raises WeightsError, DownloadError or BackendError.
        """
        return cls(
            MusicgenModel.from_pretrained(
                name_or_path,
                backend=backend,
                device=device,
                dtype=dtype,
                quantize=quantize,
                allow_pickle=allow_pickle,
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
        for _, block in self._codes(requests, None, progress, stop):
            for part, codes in zip(parts, block):
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
        """Codes and audio as they are made, in blocks of at least `block_frames` frames (None: half a second).

        Joined, they are what `generate` makes, the audio within rounding and cut to the same sample. With blocks of
        one frame the first samples are there after seven steps of a 32 kHz model.
        A request without a seed is settled here, where nobody learns it. Raises as `generate` does.
        """
        requests = [request.settled() for request in requests]
        sounds = [self.model.sound(request.samples(self.timebase)) for request in requests]
        size = self.timebase.frame_near(BLOCK_SECONDS) if block_frames is None else block_frames
        for start, codes in self._codes(requests, size, progress, stop):
            yield Block(start, codes, tuple(sound(each) for sound, each in zip(sounds, codes)))

    def _codes(
        self, requests: Sequence[Request], block_frames: int | None, progress: Progress | None, stop: Stop | None
    ) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
        """The first frame of each block, and the codes of each request in it (None: a window at a time).

        A piece longer than the model's window is written window by window, each prompted with the end of the last.
        """
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
                yield start, tuple(codes)
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
        text=request.words,
        frames=min(window.frames, total - window.start),
        seed=request.seed or 0,
        variation=request.variation,
        sampling=request.sampling,
        guidance=request.guidance,
        negative=request.negative_words,
        prompt=prompt,
        start=window.start,
    )


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
