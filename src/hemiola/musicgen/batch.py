"""Jobs, and the batch that decodes several of them side by side: rows, script and noise, all known beforehand."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from hemiola.errors import InputError
from hemiola.musicgen.delay import DelayPattern
from hemiola.musicgen.sampling import Sampling, draws, gumbels

# In a script, a place where the model writes what it picks.
FREE = -1
# Noise is worked out for so many positions at a time: a few megabytes, and little work in between steps.
NOISE_POSITIONS = 32


@dataclass(frozen=True, eq=False)
class Job:
    """One piece of music to write, as tokens; nothing in it depends on what is written beside it.

    Attributes:
        text: the prompt; None writes without one.
        frames: how many frames in all, those of `prompt` among them.
        seed, variation: name the noise; two variations of a seed are independent.
        sampling: how its tokens are chosen; with a guidance of 1 at half the work.
        negative: a text to steer away from instead of from no text.
        prompt: codes [K, P] with P < frames to go on from, or None.
        melody: a tune to follow, as rows [chroma_length, num_chroma], or None.
        start: frame of the whole music at which this job's first frame stands, so that a continued piece goes on
            with its noise and never repeats any.
    """

    text: str | None
    frames: int
    seed: int = 0
    variation: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    negative: str | None = None
    prompt: np.ndarray | None = None
    start: int = 0
    melody: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.frames < 1 or self.start < 0:
            raise InputError(f"a job needs at least 1 frame from frame 0 on, not {self.frames} from {self.start}")
        if self.prompt_frames >= self.frames:
            raise InputError(f"a prompt of {self.prompt_frames} frames leaves nothing to write in {self.frames}")

    @property
    def prompt_frames(self) -> int:
        """Frames that are given."""
        return 0 if self.prompt is None else self.prompt.shape[-1]

    @property
    def is_guided(self) -> bool:
        """Whether a second row is needed to steer away from."""
        return self.sampling.guidance != 1 and any(each is not None for each in (self.text, self.negative, self.melody))


@dataclass(frozen=True, eq=False)
class Batch:
    """Jobs decoded together: row j is job j's own, and the rows after those steer the guided jobs."""

    jobs: tuple[Job, ...]
    pattern: DelayPattern

    def __post_init__(self) -> None:
        if not self.jobs:
            raise InputError("there is nothing to write: give at least one job")
        for job in self.jobs:
            if job.prompt is not None and (job.prompt.ndim != 2 or len(job.prompt) != self.pattern.codebooks):
                wanted = self.pattern.codebooks
                raise InputError(f"a prompt must be codes [{wanted}, frames], not of shape {list(job.prompt.shape)}")
            if job.prompt is not None and not ((job.prompt >= 0) & (job.prompt < self.pattern.special)).all():
                raise InputError(f"a prompt's codes must lie from 0 to {self.pattern.special - 1}")

    @property
    def frames(self) -> int:
        """Frames of the longest job."""
        return max(job.frames for job in self.jobs)

    @property
    def steps(self) -> int:
        """Positions that are written: 1 ... steps."""
        return self.pattern.steps(self.frames)

    @property
    def known(self) -> int:
        """Positions from 0 on that nobody has to write, because every job's prompt fills them: at least 1."""
        return 1 + min(job.prompt_frames for job in self.jobs)

    @cached_property
    def texts(self) -> tuple[str | None, ...]:
        """The text of every row, None for the null condition."""
        return tuple(job.text for job in self.jobs) + tuple(job.negative for job in self.jobs if job.is_guided)

    @property
    def melodies(self) -> tuple[np.ndarray | None, ...]:
        """The melody of every row; what is steered away from has none."""
        return tuple(self.jobs[owner].melody if row == owner else None for row, owner in enumerate(self.owners))

    @cached_property
    def owners(self) -> tuple[int, ...]:
        """The job that every row belongs to."""
        return (*range(len(self.jobs)), *(index for index, job in enumerate(self.jobs) if job.is_guided))

    @cached_property
    def partners(self) -> np.ndarray:
        """The row that each job steers away from, int64 [jobs]; its own when it is not guided."""
        partners = np.arange(len(self.jobs))
        guided = list(self.owners[len(self.jobs) :])
        partners[guided] = len(self.jobs) + np.arange(len(guided))
        return partners

    @cached_property
    def script(self) -> np.ndarray:
        """What every place must hold, int64 [steps + 1, jobs, K]: a prompt's code, special outside, or FREE."""
        script = np.full((self.steps + 1, len(self.jobs), self.pattern.codebooks), self.pattern.special)
        for index, job in enumerate(self.jobs):
            codes = np.full((self.pattern.codebooks, job.frames), FREE)
            if job.prompt is not None:
                codes[:, : job.prompt_frames] = job.prompt
            pattern = self.pattern.build(codes)
            script[: pattern.shape[1], index] = pattern.T
        return script


class Noise:
    """The noise by which the tokens of a batch are picked, worked out for a block of positions at a time."""

    def __init__(self, batch: Batch, *, drawn: bool = False) -> None:
        """`drawn`: leave it to whoever takes it to make Gumbel noise of the draws."""
        self._batch = batch
        self._drawn = drawn
        self._positions = range(0)
        self._block = np.zeros((0, 0))

    def __call__(self, position: int) -> np.ndarray:
        """What decides the tokens at a position, float32 [jobs, K, vocab]; none is used twice in a piece."""
        return self.block(position)[position % NOISE_POSITIONS]

    def block(self, position: int) -> np.ndarray:
        """The noise of the block that a position is in, float32 or drawn uint32 [NOISE_POSITIONS, jobs, K, vocab]."""
        if position not in self._positions:
            first = position - position % NOISE_POSITIONS
            self._positions = range(first, first + NOISE_POSITIONS)
            self._block = np.stack(self._of_all(), axis=1)
        return self._block

    def _of_all(self) -> list[np.ndarray]:
        jobs = self._batch.jobs
        if len(jobs) == 1:
            return [self._of(jobs[0])]
        # Beside sixteen jobs a GPU would wait for the noise of one processor.
        with ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as threads:
            return list(threads.map(self._of, jobs))

    def _of(self, job: Job) -> np.ndarray:
        pattern = self._batch.pattern
        if job.sampling.is_greedy:
            number = np.uint32 if self._drawn else np.float32
            return np.zeros((NOISE_POSITIONS, pattern.codebooks, pattern.special), number)
        steps = range(job.start + self._positions.start, job.start + self._positions.stop)
        drawn = draws(job.seed, job.variation, steps, pattern.codebooks, pattern.special)
        return drawn if self._drawn else gumbels(drawn)
