"""The delay pattern: which frame of which codebook is written at which step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DelayPattern:
    """Codebook k lags by `delays[k]` steps; the `special` token fills every place that holds no frame.

    Position 0 of the pattern is all special. At position s >= 1 codebook k holds frame s - 1 - delays[k].
    A model reads positions 0 ... S - 1 and writes positions 1 ... S, where S = frames + max(delays) is the number of
    steps. Frame t is complete once position t + 1 + max(delays) is written. Source: MusicGen, arXiv 2306.05284.
    """

    delays: tuple[int, ...]
    special: int

    def __post_init__(self) -> None:
        if not self.delays or any(delay < 0 for delay in self.delays):
            raise ValueError(f"delays must be one or more whole numbers from 0, not {self.delays}")

    @property
    def codebooks(self) -> int:
        """How many codebooks there are."""
        return len(self.delays)

    @property
    def longest(self) -> int:
        """The longest delay: so many steps are taken beyond the number of frames."""
        return max(self.delays)

    def steps(self, frames: int) -> int:
        """Steps that a model takes to write `frames` frames; none for no frames."""
        return frames + self.longest if frames else 0

    def frame_index(self, frames: int) -> np.ndarray:
        """Frame held at each place, int64 [K, steps + 1]; outside 0 ... frames - 1 there is none."""
        positions = np.arange(self.steps(frames) + 1)
        return positions[None, :] - 1 - np.array(self.delays)[:, None]

    def mask(self, frames: int) -> np.ndarray:
        """Bool [K, steps + 1], true where the pattern holds a frame."""
        index = self.frame_index(frames)
        return (index >= 0) & (index < frames)

    def build(self, codes: np.ndarray) -> np.ndarray:
        """Codes [..., K, N] -> pattern [..., K, steps + 1] of the same dtype, special outside."""
        frames = codes.shape[-1]
        inside = self.mask(frames)
        pattern = np.full((*codes.shape[:-1], inside.shape[1]), self.special, dtype=codes.dtype)
        pattern[..., inside] = codes.reshape(*codes.shape[:-2], -1)
        return pattern

    def undo(self, pattern: np.ndarray, frames: int | None = None) -> np.ndarray:
        """Pattern [..., K, positions] -> codes [..., K, frames].

        Without `frames`: every frame that the positions complete. Any first part of a pattern will do, so a stream
        can be undone as it grows.
        """
        complete = max(0, pattern.shape[-1] - 1 - self.longest)
        frames = complete if frames is None else frames
        if frames > complete:
            raise ValueError(f"{pattern.shape[-1]} positions complete {complete} frames, not {frames}")
        rows = [pattern[..., k, 1 + delay : 1 + delay + frames] for k, delay in enumerate(self.delays)]
        return np.stack(rows, axis=-2)
