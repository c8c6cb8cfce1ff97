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
from hemiola.musicgen.queue import Counting
from hemiola.musicgen.windows import Window, stride_frames, window_frames, windows
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

        `dtype` is float32, bfloat16, float16, int8 (float32 with the decoder's matrices in 8 bits, in 6 and scales
        where a large model's steps are compiled) or auto (fast without being heard). `quantize` keeps the matrices in
        8 bits as int8 does, on MLX also in 4: not the same music.
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

    def settled(self, request: Request) -> Request:
        """The request with everything said: a seed, and what the checkpoint recommends where it leaves that open."""
        return request.settled(self.model.recommended)

    def generate(
        self,
        requests: Sequence[Request],
        *,
        side_by_side: int | None = None,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> list[Result]:
        """Make every request's music; each is as long as it asks, to the sample, and the same whatever is beside it.

        Up to `side_by_side` pieces are written at once (None: all), which bounds the memory. `progress(done, total)`
        counts decoding steps, those of each piece by themselves. Once `stop()` is true no further step is taken, and
        only the pieces that are whole by then come back. Raises InputError for no requests, or one that rounds to no
        sample.
        """
        made = dict(self.each(requests, side_by_side=side_by_side, progress=progress, stop=stop))
        return [made[number] for number in sorted(made)]

    def each(
        self,
        requests: Sequence[Request],
        *,
        side_by_side: int | None = None,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """What `generate` makes, piece by piece as they are done: the index of its request, and the result.

        On CUDA a piece begins in the step in which another one ends, elsewhere when all that were beside it have ended.
        """
        pieces = self._pieces(requests)
        if side_by_side is not None and side_by_side < 1:
            raise InputError(f"side_by_side must be at least 1, not {side_by_side}")

        def following(number: int, codes: np.ndarray) -> Job | None:
            piece = pieces[number]
            piece.take(piece.window.start, codes)
            return None if piece.is_whole else self._job(piece)

        jobs = [self._job(piece) for piece in pieces]
        counted = _Counted(pieces, self.model.config.decoder.pattern.longest, progress)
        for number in self.model.queue(jobs, following, side_by_side, counted=counted, stop=stop):
            yield number, self._result(pieces[number])

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
        A clip to go on from comes first, as the codec plays it. A request without a seed is settled here, where
        nobody learns it. Raises as `generate` does.
        """
        pieces, sent = self._pieces(requests), 0
        sounds = [self.model.sound(piece.request.samples(self.timebase)) for piece in pieces]
        longest = max(piece.frames for piece in pieces)
        size = self.timebase.frame_near(BLOCK_SECONDS) if block_frames is None else block_frames
        for _ in self._written(pieces, size, progress, stop):
            # Pieces with clips or strides of their own are not at the same frame: what all of them have goes out.
            ready = min((piece.written for piece in pieces if not piece.is_whole), default=longest)
            if ready > sent:
                codes = tuple(piece.codes[:, sent:ready] for piece in pieces)
                yield Block(sent, codes, tuple(sound(each) for sound, each in zip(sounds, codes)))
                sent = ready

    def _written(
        self, pieces: list[_Piece], block_frames: int, progress: Progress | None, stop: Stop | None
    ) -> Iterator[None]:
        """Write pieces window by window, all that have a window left side by side; a turn after every block."""
        counted = _Counted(pieces, self.model.config.decoder.pattern.longest, progress)
        while live := [piece for piece in pieces if not piece.is_whole]:
            jobs, starts, at = [self._job(piece) for piece in live], [piece.window.start for piece in live], 0
            steps_of = Counting(jobs, counted)
            for block in self.model.tokens(jobs, block_frames=block_frames, progress=steps_of, stop=stop):
                for piece, start, rows in zip(live, starts, block):
                    piece.take(start + at, rows)
                at += block.shape[-1]
                yield
            if at < max(job.frames for job in jobs):
                return  # stopped

    def _pieces(self, requests: Sequence[Request]) -> list[_Piece]:
        if not requests:
            raise InputError("there is nothing to make: give at least one request")
        return [self._piece(self.settled(request)) for request in requests]

    def _piece(self, request: Request) -> _Piece:
        """What is known of a request beforehand: its length, its windows, and the codes of its clip."""
        samples, config = request.samples(self.timebase), self.model.config
        frames = self.timebase.frames(samples)
        codes = np.zeros((self.model.codebooks, 0), np.int32)
        if isinstance(request.prompt_audio, Audio):
            codes = self._clip(request.prompt_audio, samples)
        stride = stride_frames(config, request.window_stride)
        rounds = windows(frames, window_frames(config), stride, known=codes.shape[1])
        tune = request.melody
        melody = tune.to_channels(1).resample(self.sampling_rate).samples if isinstance(tune, Audio) else None
        return _Piece(request, frames, tuple(rounds), codes, melody)

    def _clip(self, audio: Audio, samples: int) -> np.ndarray:
        """Codes of the whole frames of a clip that is shorter than `samples`.

        The codec hears what the clip holds beyond them, less than a frame, and the model writes that frame anew.
        """
        clip = audio.to_channels(self.channels).resample(self.sampling_rate)
        frames = self.timebase.whole_frames(clip.length)
        if clip.length >= samples:
            least = float(clip.seconds)
            raise InputError(f"the clip lasts {least:.3f} s, and the piece holds it: ask for more seconds than that")
        if not frames:
            raise InputError(f"the clip holds {clip.length} samples, less than a frame: go on from a longer one")
        return self.model.encode(clip.samples)[:, :frames]

    def _job(self, piece: _Piece) -> Job:
        """What the model is to write of a piece next."""
        request, window, melody = piece.request, piece.window, None
        if piece.melody is not None:
            melody = self.model.melody(piece.melody, self.timebase.samples_of(window.start))
        return Job(
            text=request.words,
            frames=window.frames,
            seed=request.seed or 0,
            variation=request.variation,
            sampling=request.sampling(self.model.recommended),
            negative=request.negative_words,
            prompt=piece.codes[:, window.start :] if window.prompt else None,
            start=window.start,
            melody=melody,
        )

    def _result(self, piece: _Piece) -> Result:
        samples = self.model.decode(piece.codes, piece.request.samples(self.timebase))
        return Result(piece.request, piece.codes, Audio(samples, self.sampling_rate))


def generate(
    prompt: str,
    *,
    seconds: Seconds = 8,
    seed: int | None = None,
    model: str | Path = DEFAULT_MODEL,
    backend: str = "auto",
    device: str = "auto",
    dtype: str = "float32",
    quantize: int | None = None,
    **settings: Any,
) -> Audio:
    """Music for a prompt, exactly `seconds` long; `settings` are the other fields of Request.

    The model stays loaded for the next call. Raises InputError, WeightsError or BackendError.
    """
    request = Request(prompt, seconds, seed, **settings)
    loaded = _loaded(str(model), backend, device, dtype, quantize)
    return loaded.generate([request])[0].audio


@lru_cache(maxsize=1)
def _loaded(model: str, backend: str, device: str, dtype: str, quantize: int | None) -> MusicGen:
    return MusicGen.from_pretrained(model, backend=backend, device=device, dtype=dtype, quantize=quantize)


@dataclass(eq=False)
class _Piece:
    """One request on its way: the windows that it takes, its codes so far, those of a clip first, and its tune."""

    request: Request
    frames: int
    windows: tuple[Window, ...]
    codes: np.ndarray
    melody: np.ndarray | None

    @property
    def written(self) -> int:
        """Frames that are there."""
        return self.codes.shape[1]

    @property
    def window(self) -> Window:
        """The one that is to be written next."""
        return next(each for each in self.windows if each.start + each.frames > self.written)

    @property
    def is_whole(self) -> bool:
        """Whether all frames are there."""
        return self.written == self.frames

    def take(self, start: int, rows: np.ndarray) -> None:
        """Add what is new in codes [codebooks, n] that begin at frame `start`; a window begins with its prompt."""
        new = rows[:, self.written - start : self.frames - start]
        self.codes = np.concatenate([self.codes, new], axis=1)


class _Counted:
    """Steps of all windows of all pieces, so that progress ends at its total: each takes frames - prompt + delay."""

    def __init__(self, pieces: Sequence[_Piece], delay: int, progress: Progress | None) -> None:
        self._progress = progress
        self._done = 0
        self._total = sum(each.frames - each.prompt + delay for piece in pieces for each in piece.windows)

    def __call__(self, steps: int) -> None:
        """Told that so many more are taken."""
        self._done += steps
        if self._progress is not None:
            self._progress(self._done, self._total)
