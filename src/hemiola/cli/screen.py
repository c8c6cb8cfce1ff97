"""What a person sees, all of it on stderr: notes, and progress bars where stderr is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction

Progress = Callable[[int, int], None]

TABLE_WIDTH = 100  # characters: a table that is cut says nothing, so it is never narrower


def note(text: str) -> None:
    """Say one line."""
    print(text, file=sys.stderr, flush=True)


def written(path: object) -> None:
    """Name a file that was written: the one thing that goes to stdout."""
    print(path, flush=True)


def shown(seconds: Fraction | float) -> str:
    """Seconds for reading: 3 is "3 s", 1/3 is "0.333 s"."""
    text = f"{float(seconds):.3f}".rstrip("0").rstrip(".")
    return f"{text} s"


def shown_bytes(count: int) -> str:
    """Bytes for reading: 1234567 is "1.2 MB"."""
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}" if unit != "bytes" else f"{count} bytes"


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows of text under their headings; the first column is flush left, the others are numbers."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False)
    for place, name in enumerate(names):
        drawn.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    Console(stderr=True, markup=False, highlight=False, width=TABLE_WIDTH).print(drawn)


class Pace:
    """How fast `seconds` of music are made, against real time: told of steps done and in all, and shown by bars."""

    def __init__(self, seconds: Fraction) -> None:
        self._seconds = float(seconds)
        self._began = time.perf_counter()
        self._part = 0.0
        self._shown: Progress = lambda done, total: None

    def __call__(self, done: int, total: int) -> None:
        """So many of so many steps are done."""
        self._part = done / total
        self._shown(done, total)

    @property
    def times_real_time(self) -> float:
        """Seconds of music made in a second so far."""
        past = time.perf_counter() - self._began
        return self._part * self._seconds / past if past else 0

    @contextmanager
    def bar(self, title: str) -> Iterator[None]:
        """A bar while there is nothing to say."""
        with _bar(title, self._status) as self._shown:
            yield

    def _status(self, part: float) -> str:
        return f"{part * self._seconds:.1f}/{self._seconds:.1f} s {self.times_real_time:.1f}x"


@contextmanager
def music_bar(title: str, seconds: Fraction) -> Iterator[Progress]:
    """A bar for `seconds` of music in the making, against real time; it is fed steps done and in all."""
    pace = Pace(seconds)
    with pace.bar(title):
        yield pace


@contextmanager
def phase_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each phase of a longer work, fed with its name and how many of how many are done.

    A phase's bar goes when it is done, so that others can draw; without a terminal one line says that it is.
    """
    bars = ExitStack()
    running: dict[str, Progress] = {}

    def progress(phase: str, done: int, total: int) -> None:
        if phase not in running:
            bars.close()
            running.clear()
            running[phase] = bars.enter_context(_bar(phase, None))
        running[phase](done, total)
        if done >= total:
            bars.close()
            running.clear()
            note(f"{phase}: {total} done")

    with bars:
        yield progress


@contextmanager
def download_bar(name: str) -> Iterator[Progress]:
    """A bar for bytes that arrive."""
    with _bar(name, None, is_bytes=True) as progress:
        yield progress


@contextmanager
def _bar(title: str, status: Callable[[float], str] | None, *, is_bytes: bool = False) -> Iterator[Progress]:
    """A bar that appears with its first step: where nothing is counted, nothing is drawn and rich is not loaded."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    bars: list = []

    def progress(done: int, total: int) -> None:
        if not bars:
            bars.append(_drawn(title, is_bytes))
            bars[0].start()
        shown = status(done / max(total, 1)) if status else _counted(done, total, is_bytes)
        bars[0].update(bars[0].task_ids[0], completed=done, total=total, status=shown)

    try:
        yield progress
    finally:
        for bar in bars:
            bar.stop()


def _counted(done: int, total: int, is_bytes: bool) -> str:
    return f"{shown_bytes(done)}/{shown_bytes(total)}" if is_bytes else f"{done}/{total}"


def _drawn(title: str, is_bytes: bool) -> object:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    console = Console(stderr=True)
    third = console.width // 3
    bar = Progress(
        TextColumn(
            "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", max_width=third)
        ),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        TextColumn("{task.fields[status]}", markup=False, table_column=Column(no_wrap=True)),
        console=console,
        transient=True,
        expand=True,
        refresh_per_second=5,
    )
    bar.add_task(title, total=None, status="")
    return bar
