"""The generation loop, written once: a session writes one position after another, frames come out as they finish.

Nothing here looks at a token before a block of frames is fetched, so the loop never waits for a device in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from hemiola.errors import WeightsError
from hemiola.musicgen.batch import Batch

Progress = Callable[[int, int], None]
Stop = Callable[[], bool]


class Session(Protocol):
    """What a backend keeps while it decodes one batch; tokens are its own kind of array, [jobs, K]."""

    def steps(self, tokens: Any, position: int, most: int) -> list[Any]:
        """Read the tokens at `position` and write those at the next, and so on: one step or more, `most` at most.

        The first call reads [jobs, K, n] at once.
        """

    def fetch(self, written: list[Any]) -> np.ndarray:
        """Bring tokens to the host, int32 [len(written), jobs, K]; this is where a device is waited for."""


def blocks(
    batch: Batch,
    session: Session,
    frames: int | None = None,
    *,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Iterator[np.ndarray]:
    """Codes, int32 [jobs, K, n], in order and without a gap: prompts first, then each frame when it is complete.

    A block holds at least `frames` frames, the last one what is left; None means all in one block. Past the end of a
    shorter job its row is special. Frame t is ready as soon as step t + max(delays) is taken. `progress(done, total)`
    counts steps. When `stop()` is true, no further step is taken and the blocks end early. Raises WeightsError when the
    model's output was not a number.
    """
    size = batch.frames if frames is None else max(1, frames)
    total = batch.steps + 1 - batch.known
    tokens: Any = np.moveaxis(batch.script[: batch.known], 0, -1)
    tail = tokens.astype(np.int32)
    waiting: list[Any] = []
    done, sent, position = 0, 0, 0
    while done < total:
        if stop is not None and stop():
            return
        wanted = min(size, batch.frames - sent) + 1 + batch.pattern.longest
        written = session.steps(tokens, position, max(1, wanted - tail.shape[-1] - len(waiting)))
        waiting += written
        tokens, done = written[-1], done + len(written)
        position = batch.known + done - 1
        if progress is not None:
            progress(done, total)
        if tail.shape[-1] + len(waiting) < wanted:
            continue
        tail = np.concatenate([tail, np.moveaxis(session.fetch(waiting), 0, -1)], axis=-1)
        waiting = []
        codes = batch.pattern.undo(tail)
        require_codes(batch, codes, sent)
        ready = codes.shape[-1]
        sent += ready
        # What is left begins one position early, as a pattern does.
        tail = tail[..., ready:]
        yield codes


def require_codes(batch: Batch, codes: np.ndarray, first: int = 0) -> None:
    """Raise WeightsError where codes [jobs, K, n], frames from `first` on, are none: the logits were not numbers."""
    for job, rows in zip(batch.jobs, codes):
        if (rows[:, : max(0, job.frames - first)] >= batch.pattern.special).any():
            raise WeightsError("the decoder gave logits that are not numbers: try --dtype float32, or fetch it again")
