"""Music longer than a model's window: overlapping windows, each prompted with the end of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hemiola.errors import InputError
from hemiola.musicgen.config import MusicgenConfig
from hemiola.timebase import Seconds

TRAINED_SECONDS = 30  # what every published MusicGen was trained on


@dataclass(frozen=True)
class Window:
    """Frames [start, start + frames) of the music, of which the first `prompt` are already written."""

    start: int
    frames: int
    prompt: int

    @property
    def first(self) -> int:
        """The first frame that is new."""
        return self.start + self.prompt


def window_frames(config: MusicgenConfig) -> int:
    """The most frames a model can write at once: 30 s, or what its positions hold."""
    clock = config.codec.timebase
    ahead = config.decoder.melody.chroma_length if config.decoder.melody else 0
    held = config.decoder.max_position_embeddings - config.decoder.pattern.longest - 1 - ahead
    return max(1, min(clock.frames(clock.samples(TRAINED_SECONDS)), held))


def default_stride(window: int) -> int:
    """New frames of every window after the first: three fifths of it, 900 of 1500."""
    return max(1, window * 3 // 5)


def stride_frames(config: MusicgenConfig, seconds: Seconds | None) -> int:
    """New frames of a window that moves on by `seconds`; raises InputError for less than a frame or over a window."""
    window = window_frames(config)
    if seconds is None:
        return default_stride(window)
    clock = config.codec.timebase
    stride = clock.frame_near(seconds)
    if not 0 < stride <= window:
        least, most = (float(clock.seconds(clock.samples_of(frames))) for frames in (1, window))
        raise InputError(f"window_stride must be from {least:g} to {most:g} s with this model, not {seconds}")
    return stride


def windows(frames: int, window: int, stride: int | None = None, known: int = 0) -> Iterator[Window]:
    """Cover `frames` frames: the first window whole, then `stride` new frames after window - stride old ones.

    Windows stand on a grid of strides, and `known` frames are there already: the first window is the one in which the
    frame after them falls. So whatever was broken off goes on as it would have gone on. No window is issued whose
    prompt is not shorter than itself.
    """
    stride = default_stride(window) if stride is None else stride
    if not 0 < stride <= window:
        raise InputError(f"the window stride must be from 1 to {window} frames, not {stride}")
    start = max(0, (known - window) // stride + 1) * stride
    while known < frames:
        end = min(start + window, frames)
        yield Window(start, end - start, known - start)
        known, start = end, start + stride
