"""Work shared by processes: one function over many jobs, its results in the jobs' order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Job = TypeVar("Job")
Done = TypeVar("Done")
Progress = Callable[[int, int], None]


def spread(
    work: Callable[[Job], Done], jobs: Sequence[Job], workers: int = 1, progress: Progress | None = None
) -> Iterator[Done]:
    """What `work`, a function of a module, makes of each job; with one worker or job it is done in this process.

    `progress` is told how many are done, and of how many.
    """
    if workers <= 1 or len(jobs) <= 1:
        yield from _counted(map(work, jobs), len(jobs), progress)
        return
    # Spawned, not forked: a fork of a process that has run torch may hang in its thread pool.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from _counted(pool.map(work, jobs), len(jobs), progress)


def _counted(results: Iterator[Done], total: int, progress: Progress | None) -> Iterator[Done]:
    for done, result in enumerate(results, 1):
        if progress:
            progress(done, total)
        yield result
