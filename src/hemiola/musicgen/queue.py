"""More jobs than are written side by side: slot by slot where a backend can, one batch after another elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from hemiola.musicgen.batch import Job
from hemiola.musicgen.decode import Progress, Stop

# Takes the number and the codes [K, frames] of a job that is through -> the one that goes on after it, or None.
Following = Callable[[int, np.ndarray], Job | None]
Counted = Callable[[int], object]  # told how many steps were taken, each job's counted by themselves
Write = Callable[[Sequence[Job], Progress], Iterable[np.ndarray]]


class Slots(Protocol):
    """What a backend keeps while jobs come and go: places side by side, each empty or with a job of its own."""

    def admit(self, slot: int, number: int, job: Job) -> int:
        """Begin in an empty slot to write a job, the one of that number or what goes on after it -> steps taken."""

    def advance(self) -> tuple[int, list[int]]:
        """Take some steps in every slot -> how many, and the slots whose jobs are through."""

    def take(self, slot: int) -> np.ndarray:
        """The codes of a job that is through, int32 [K, frames]; its slot is empty then."""


def by_slots(
    jobs: Sequence[Job], following: Following, slots: Slots, count: int, counted: Counted, stop: Stop | None
) -> Iterator[int]:
    """Write jobs in `count` slots: the number of each as soon as nothing follows it.

    A job that is through makes room at once, for what follows it or for the next. Ends early when `stop()` is true.
    """
    waiting = deque(enumerate(jobs))
    held: dict[int, int] = {}
    empty = list(range(count))[::-1]
    while waiting or held:
        # Before anybody is admitted: to read a prompt takes a step.
        if stop is not None and stop():
            return
        while waiting and empty:
            slot = empty.pop()
            held[slot], job = waiting.popleft()
            counted(slots.admit(slot, held[slot], job))
        steps, through = slots.advance()
        counted(steps * len(held))
        for slot in through:
            number = held.pop(slot)
            empty.append(slot)
            after = following(number, slots.take(slot))
            if after is None:
                yield number
            else:
                waiting.appendleft((number, after))


def by_batches(jobs: Sequence[Job], following: Following, write: Write, count: int, counted: Counted) -> Iterator[int]:
    """The same, `count` jobs at a time: `write` gives codes [jobs, K, frames], or nothing when it was stopped."""
    waiting = deque(enumerate(jobs))
    while waiting:
        some = [waiting.popleft() for _ in range(min(count, len(waiting)))]
        progress = Counting([job for _, job in some], counted)
        goes_on = []
        written = list(write([job for _, job in some], progress))
        if not written:
            return
        for (number, job), codes in zip(some, np.concatenate(written, axis=-1)):
            after = following(number, codes[:, : job.frames])
            if after is None:
                yield number
            else:
                goes_on.append((number, after))
        waiting.extendleft(reversed(goes_on))


class Counting:
    """From the steps of a batch to those of its jobs: a shorter one, or one with a longer prompt, has fewer."""

    def __init__(self, jobs: Sequence[Job], counted: Counted) -> None:
        self._given = np.array([job.prompt_frames for job in jobs])
        self._counted = counted
        self._ends = np.array([job.frames for job in jobs]) - max(job.frames for job in jobs)
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        """As `decode` reports them."""
        first = self._given.min()
        ends = first + total + self._ends
        taken = int((np.clip(first + done, self._given, ends) - self._given).sum())
        self._counted(taken - self._done)
        self._done = taken
