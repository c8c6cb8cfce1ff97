"""The sound files of a folder: which there are, by which checksum they are known, and what became of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hemiola.errors import InputError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".opus")
# What else soundfile reads, and what it does not: music that is left out has to be named.
_OTHERS = (
    ".aif", ".aifc", ".au", ".caf", ".mp2", ".oga", ".rf64", ".w64",
    ".m4a", ".aac", ".mp4", ".wma", ".ape", ".wv",
)  # fmt: skip
SUFFIXES = (*AUDIO_SUFFIXES, *_OTHERS)


@dataclass(frozen=True)
class Fate:
    """What became of a file: how many clips it gave, or why it was left out; as it lies in the folder, with slashes."""

    file: str
    clips: int = 0
    why: str = ""
    seconds: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    sha256: str = ""

    @property
    def used(self) -> bool:
        """Whether there is a clip of it."""
        return self.clips > 0


def found(folder: Path, passing_over: Path) -> tuple[list[str], list[Fate]]:
    """The sound files below a folder, as names in order, and those links and folders that cannot be followed.

    Links are followed, each folder is read once, hidden files and the folder `passing_over` are not looked at. Raises
    InputError where there is no such folder.
    """
    if not Path(folder).is_dir():
        raise InputError(f"no such folder of audio: {folder}")
    walk = _Walk(Path(folder), Path(passing_over).resolve())
    names = list(walk.files())
    return sorted(names), sorted(walk.lost, key=lambda fate: fate.file)


class _Walk:
    """A folder from top to bottom: first what lies in it, then where links lead, so that a loop ends where it began."""

    def __init__(self, folder: Path, passing_over: Path) -> None:
        self.top, self.seen, self.links = folder, {passing_over}, [folder]
        self.lost: list[Fate] = []

    def files(self) -> Iterator[str]:
        while self.links:
            path = self.links.pop(0)
            try:
                place = path.resolve(strict=True)
            except (OSError, RuntimeError):
                self._lose(path, "is a link that leads nowhere")
                continue
            if not place.is_dir():
                yield from self._named(path)
            elif place in self.seen:
                self._lose(path, "is a link to a folder that is read in its own place")
            else:
                yield from self._inside(path, place)

    def _inside(self, path: Path, place: Path) -> Iterator[str]:
        if place in self.seen:
            return
        self.seen.add(place)
        try:
            entries = sorted(path.iterdir())
        except OSError as error:
            self._lose(path, f"cannot be opened: {error.strerror}")
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                self.links.append(entry)
            elif entry.is_dir():
                yield from self._inside(entry, entry.resolve())
            else:
                yield from self._named(entry)

    def _named(self, path: Path) -> Iterator[str]:
        if path.suffix.lower() in SUFFIXES and path.is_file():
            yield path.relative_to(self.top).as_posix()

    def _lose(self, path: Path, why: str) -> None:
        self.lost.append(Fate(path.relative_to(self.top).as_posix(), why=why))


def checksum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; empty where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def track_of(name: str) -> str:
    """The track that a file belongs to: its name without the suffix, so that a song in two formats is one track."""
    return PurePosixPath(name).with_suffix("").as_posix()
