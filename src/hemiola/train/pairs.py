"""A dataset of pairs: a folder with clips, what each was cut from, and which two make a pair.

dataset.json       how the clips were made: their length, their sample rate, and where from
manifest.jsonl     one clip a row (`Cut`)
pairs.jsonl        one pair a row (`Pair`), with the truth about it where that is known
clips/NAME.flac    mono, 24 bits, all of one length
latents/KEY/       the clips as a codec's latents, NAME.npy each; KEY stands for the codec's weights
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hemiola.audio import io
from hemiola.audio.writing import replacing
from hemiola.errors import InputError, OutputError

Row = TypeVar("Row")

SPLITS = ("train", "valid")
SETTINGS, MANIFEST, PAIRS, CLIPS, LATENTS = "dataset.json", "manifest.jsonl", "pairs.jsonl", "clips", "latents"


@dataclass(frozen=True)
class Cut:
    """One clip: its name, the track and split that it belongs to, and where in which file it was cut.

    `start_samples` and `samples` count at the source's own `sample_rate`; `source` is relative to the folder of audio.
    `gain_db` is below 0 where the clip would have clipped otherwise. Composed clips have no source file to check.
    """

    clip: str
    track: str
    split: str
    source: str
    start_samples: int
    samples: int
    sample_rate: int
    sha256: str = ""
    gain_db: float = 0.0


@dataclass(frozen=True)
class Stretch:
    """The stretch that two clips of a pair share, the target's at another tempo; what is true of a planted pair.

    Input time = input_start_seconds + (target time - target_start_seconds) * ratio, for `input_seconds` of the input:
    a ratio above 1 means that the target plays it faster.
    """

    ratio: float
    input_start_seconds: float
    target_start_seconds: float
    input_seconds: float


@dataclass(frozen=True)
class Pair:
    """Two clips by name: the input and the target, both of one split."""

    split: str
    input: str
    target: str
    truth: Stretch | None = None


@dataclass(frozen=True)
class PairFolder:
    """A dataset as it stands on disk: settings, clips by name, and pairs in their order."""

    folder: Path
    settings: Mapping[str, Any]
    cuts: Mapping[str, Cut]
    pairs: tuple[Pair, ...]

    def of(self, split: str) -> list[Pair]:
        """The pairs of a split, in their order."""
        return [pair for pair in self.pairs if pair.split == split]

    def audio(self, clip: str) -> NDArray[np.float32]:
        """A clip's samples, float32 [1, samples]; raises AudioError."""
        return io.read(clip_path(self.folder, clip))[0]


def clip_path(folder: Path, clip: str) -> Path:
    """Where a clip's sound is."""
    return Path(folder) / CLIPS / f"{clip}.flac"


def read(folder: str | Path) -> PairFolder:
    """The dataset in a folder; raises InputError where there is none, or a row that cannot be read."""
    folder = Path(folder)
    settings = read_settings(folder)
    if settings is None or not (folder / PAIRS).is_file():
        raise InputError(f"{folder} is not a finished dataset of pairs: make one with hemiola pairs")
    cuts = {cut.clip: cut for cut in _rows(folder / MANIFEST, lambda row: Cut(**row))}
    pairs = tuple(_rows(folder / PAIRS, _pair))
    lost = sorted({name for pair in pairs for name in (pair.input, pair.target)} - set(cuts))
    if lost:
        raise InputError(f"{folder / PAIRS} names the clip {lost[0]}, which {MANIFEST} lacks: run hemiola pairs again")
    return PairFolder(folder, settings, cuts, pairs)


def read_settings(folder: Path) -> dict[str, Any] | None:
    """What a dataset says about how it was made; None where there is no dataset."""
    try:
        return dict(json.loads((Path(folder) / SETTINGS).read_text("utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError):
        raise InputError(f"{Path(folder) / SETTINGS} cannot be read: remove it, or choose another folder") from None


def prepare(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of a dataset; InputError where it holds one made with other settings, or something else."""
    found = read_settings(folder)
    for name, value in settings.items():
        if found is not None and found.get(name) != value:
            told = f"{name} {found.get(name)}, not {value}"
            raise InputError(f"{folder} already holds a dataset made with {told}: choose another folder")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if found is None and any(Path(folder).iterdir()):
            raise InputError(f"{folder} holds something else than a dataset of pairs: choose another folder")
        write_settings(folder, {**(found or {}), **settings})
        (Path(folder) / CLIPS).mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot hold a dataset: {error.strerror}") from None


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Say how a dataset was made."""
    _write(Path(folder) / SETTINGS, json.dumps(settings, indent=1) + "\n")


def write(folder: Path, cuts: Iterable[Cut], pairs: Iterable[Pair]) -> None:
    """Write the manifest and then the pairs: a dataset whose pairs are there is finished."""
    write_rows(Path(folder) / MANIFEST, map(asdict, cuts))
    write_rows(Path(folder) / PAIRS, map(asdict, pairs))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON, one row a line; the file appears whole."""
    _write(path, "".join(json.dumps(row) + "\n" for row in rows))


def _write(path: Path, text: str) -> None:
    with replacing(path, force=True) as temporary:
        temporary.write_text(text, "utf-8")


def _pair(row: dict[str, Any]) -> Pair:
    truth = row.get("truth")
    return Pair(**{**row, "truth": None if truth is None else Stretch(**truth)})


def _rows(path: Path, made: Callable[[dict[str, Any]], Row]) -> list[Row]:
    """What `made` makes of each row of a file; raises InputError that names the line."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(made(json.loads(line)))
        except (ValueError, TypeError, AttributeError):
            raise InputError(f"{path}, line {number}: not a row of this dataset; run hemiola pairs again") from None
    return rows
