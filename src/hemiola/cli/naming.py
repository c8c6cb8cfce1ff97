"""Where pieces go: names that were asked for, checked before any work is done, or free ones from the prompt."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from hemiola.audio import io, writing
from hemiola.errors import OutputError
from hemiola.request import Request


@dataclass(frozen=True)
class Place:
    """Where one piece and its record go: this very path, or when `is_free` the first name like it that is not taken."""

    path: Path
    is_free: bool
    force: bool = False

    def check(self) -> None:
        """Raise OutputError now for what would stop the writing later."""
        if self.is_free:
            if not os.access(self.path.parent, os.W_OK):
                raise OutputError(f"the folder {self.path.parent.resolve()} may not be written: name a file with -o")
            return
        io.check_destination(self.path, force=self.force)
        writing.check_place(record_path(self.path), force=self.force)

    @contextmanager
    def claimed(self) -> Iterator[tuple[Path, bool]]:
        """The path to write, and whether what stands there may be replaced; a free name is held by an empty file."""
        if not self.is_free:
            yield self.path, self.force
            return
        path = self._hold()
        try:
            yield path, True
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _hold(self) -> Path:
        for number in count(1):
            path = self.path if number == 1 else self.path.with_stem(f"{self.path.stem}-{number}")
            if record_path(path).exists():
                continue
            try:
                path.open("x").close()
                return path
            except FileExistsError:
                continue
        raise AssertionError("there are more numbers than files")


def record_path(path: Path) -> Path:
    """Where the record of a piece goes: beside it, as .json."""
    return path.with_suffix(".json")


def places(output: Path | None, requests: Sequence[Request], pieces: int, *, suffix: str, force: bool) -> list[Place]:
    """A checked place for each request, whose seeds are settled; `pieces` variations of each stand in a row.

    Several pieces are numbered: song-1.wav, song-2.wav. A name that lacks a suffix gets `suffix`. Raises OutputError
    when one cannot be written.
    """
    if output is None or output.is_dir():
        folder = output or Path()
        stems = [f"{slug(request.prompt)}-{request.seed}" for request in requests]
        if pieces > 1:
            stems = [f"{stem}-{index % pieces + 1}" for index, stem in enumerate(stems)]
        found = [Place(folder / f"{stem}{suffix}", is_free=True) for stem in stems]
    else:
        found = [Place(path, is_free=False, force=force) for path in _numbered(output, suffix, len(requests))]
    for place in found:
        place.check()
    return found


def slug(prompt: str | None) -> str:
    """A prompt as part of a file name: its words in small letters, joined by hyphens, forty characters at most."""
    words = re.sub(r"[\W_]+", "-", (prompt or "").lower())
    return words[:40].strip("-") or "music"


def _numbered(output: Path, suffix: str, pieces: int) -> list[Path]:
    # A device file must be refused under its own name, not completed into another one.
    path = output if output.suffix or output.exists() else output.with_suffix(suffix)
    if pieces == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{number}") for number in range(1, pieces + 1)]
