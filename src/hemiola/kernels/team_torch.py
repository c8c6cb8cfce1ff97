"""Threads that carry out one task together, as many as torch uses."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch

from hemiola.kernels.memory import LINE


def counts() -> np.ndarray:
    """What `meeting_numba.meet` counts in, int64 [2, n]: nobody has come yet."""
    return np.zeros((2, LINE // np.dtype(np.int64).itemsize), np.int64)


class Team:
    """Threads that carry out one task together, one task at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.others = ThreadPoolExecutor(most, thread_name_prefix="hemiola")
        self.lock = threading.Lock()

    def run(self, task: Callable[..., None], *arguments: Any, counts: np.ndarray | None = None) -> None:
        """Call task(part, parts, *arguments) in as many threads as torch uses, of the `most` that there are.

        Where they meet at `counts`, nobody waits for a thread that could not begin.
        """
        parts = min(torch.get_num_threads(), self.most)
        with self.lock:
            try:
                others = [self.others.submit(task, part, parts, *arguments) for part in range(1, parts)]
                task(0, parts, *arguments)
                for each in others:
                    each.result()
            except BaseException:
                if counts is not None:
                    counts[1] = 1
                raise


@cache
def team() -> Team:
    """The process's own team; one that was forked has none of its parent's threads."""
    return Team(os.cpu_count() or 1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=team.cache_clear)
