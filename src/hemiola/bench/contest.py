"""A contest: functions that do the same work take turns on one machine, and what they took is told by medians."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

Progress = Callable[[int, int], None]

# Copied to measure the memory: far larger than any cache.
_COPIED_BYTES = 512 * 2**20
_COPIES = 5
OURS = "hemiola"


@dataclass(frozen=True)
class Outcome:
    """What one contender took in each round, seconds; `bytes_read` is what the work cannot do without reading.

    `peak_bytes` is the most memory that it took, beyond what was there before; None where nobody looked.
    """

    seconds: tuple[float, ...]
    bytes_read: int = 0
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def contest(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    bytes_read: Mapping[str, int] | None = None,
    memory: bool = False,
    progress: Progress | None = None,
) -> dict[str, Outcome]:
    """Time every contender once a round, after a warm-up that does not count; a last round is for their memory."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, int | None] = {}
    total = (rounds + 1 + memory) * len(contenders)
    for number in range(rounds + 1 + memory):
        for place, (name, work) in enumerate(contenders.items(), 1):
            if number > rounds:
                peaks[name] = peak_bytes(work)
            else:
                began = time.perf_counter()
                work()
                taken[name] += [time.perf_counter() - began] if number else []
            if progress:
                progress(number * len(contenders) + place, total)
    needed = bytes_read or {}
    return {name: Outcome(tuple(seconds), needed.get(name, 0), peaks.get(name)) for name, seconds in taken.items()}


def peak_bytes(work: Callable[[], object]) -> int | None:
    """The most memory that `work` takes, beyond what is there before, in bytes; None where the system does not say.

    What malloc keeps of earlier work is given back first, or it would not be seen.
    """
    with contextlib.suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is what is there now
        before = _resident("VmRSS")
    except OSError:
        work()
        return None
    work()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    """A line of what Linux says of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def ratios(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, float]]:
    """How many times as fast each of ours is as each rival: the median of the rounds' own ratios."""
    ours = {name: each for name, each in outcomes.items() if name.startswith(OURS)}
    rivals = {name: each for name, each in outcomes.items() if name not in ours}
    return {
        name: {
            rival: statistics.median(b / a for a, b in zip(each.seconds, other.seconds))
            for rival, other in rivals.items()
        }
        for name, each in ours.items()
    }


def copy_gb_per_second() -> float:
    """What the memory gives one thread: bytes read and written by a large copy, the best of a few."""
    source = np.ones(_COPIED_BYTES // 8)
    target = np.empty_like(source)
    best = float("inf")
    for _ in range(_COPIES):
        began = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - began)
    return 2 * _COPIED_BYTES / best / 1e9


def facts(packages: Sequence[str], **more: Any) -> dict[str, Any]:
    """Machine and versions, for the record."""
    return {
        **more,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {name: metadata.version(name) for name in packages} | {"python": platform.python_version()},
    }
