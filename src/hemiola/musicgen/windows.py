"""Music longer than a model's window: overlapping windows, each prompted with the end of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hemiola.errors import InputError
from hemiola.musicgen.config import MusicgenConfig

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
    held = config.decoder.max_position_embeddings - config.decoder.pattern.longest - 1
    return max(1, min(clock.frames(clock.samples(TRAINED_SECONDS)), held))


def default_stride(window: int) -> int:
    """New frames of every window after the first: three fifths of it, 900 of 1500."""
    return max(1, window * 3 // 5)


def windows(frames: int, window: int, stride: int | None = None) -> Iterator[Window]:
    """Cover `frames` frames, one or more: the first window whole, then `stride` new frames after window - stride old.

    No window is issued whose prompt is not shorter than itself.
    """
    stride = default_stride(window) if stride is None else stride
    if not 0 < stride <= window:
        raise InputError(f"the window stride must be from 1 to {window} frames, not {stride}")
    yield Window(0, min(frames, window), 0)
    prompt = window - stride
    start = stride
    while start + prompt < frames:
        yield Window(start, min(window, frames - start), prompt)
        start += stride
