"""Cutting: the sound files of a folder become clips of one length, mono and at one rate, each of them made once.

A file is known by its checksum. What was made of it is kept in sources/CHECKSUM.json, written when all its clips are
there: a run that was stopped goes on where it was, and a file that moved is not cut again. report.jsonl says of every
file what became of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from hemiola.audio import io
from hemiola.audio.audio import Audio
from hemiola.audio.writing import replacing
from hemiola.errors import AudioError
from hemiola.timebase import Timebase
from hemiola.train.pairs import clip_path, write_rows
from hemiola.train.pools import spread
from hemiola.train.sources import Fate, checksum, found

RECEIPTS, REPORT = "sources", "report.jsonl"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Form:
    """What clips are like: as long as that, at that rate in Hz."""

    seconds: Fraction
    sample_rate: int

    @property
    def samples(self) -> int:
        """The length of a clip."""
        return Timebase(self.sample_rate, 1).samples(self.seconds)

    @property
    def settings(self) -> dict[str, Any]:
        """What a dataset of such clips says about itself."""
        return {"made": "cut", "clip_seconds": float(self.seconds), "sample_rate": self.sample_rate}


@dataclass(frozen=True)
class Slice:
    """A clip and where in its file it was cut, in samples at the file's rate; below 0 dB it had to be turned down."""

    clip: str
    start_samples: int
    samples: int
    gain_db: float


@dataclass(frozen=True)
class CutFile:
    """A file and its clips."""

    fate: Fate
    slices: tuple[Slice, ...] = ()


def cut_all(
    audio: Path, folder: Path, form: Form, *, workers: int = 1, progress: Progress | None = None
) -> list[CutFile]:
    """Cut what is not cut yet of every sound file in `audio` into `folder`; a file that gives no clip says why.

    Of files that hold the same bytes the first is taken. Raises InputError where there is no folder of audio.
    """
    names, lost = found(audio, folder)
    (folder / RECEIPTS).mkdir(exist_ok=True)
    checking = partial(progress, "checking") if progress else None
    sums = dict(zip(names, spread(checksum, [audio / name for name in names], 1, checking)))
    firsts = _firsts(sums)
    copies = [
        CutFile(Fate(name, why=f"holds the same bytes as {first}", sha256=sums[name]))
        for name, first in firsts.items()
        if first != name
    ]
    jobs = [(audio, folder, name, sums[name], form) for name, first in firsts.items() if first == name]
    kept = {job[2]: _kept(*job) for job in jobs}
    cutting = partial(progress, "cutting") if progress else None
    fresh = list(spread(_cut, [job for job in jobs if kept[job[2]] is None], workers, cutting))
    every = [CutFile(fate) for fate in lost] + copies + fresh + [each for each in kept.values() if each]
    every.sort(key=lambda each: each.fate.file)
    write_rows(folder / REPORT, ({"used": each.fate.used, **asdict(each.fate)} for each in every))
    return every


def _firsts(sums: Mapping[str, str]) -> dict[str, str]:
    """File -> the first of all files that hold the same bytes; one without a checksum is like no other."""
    seen: dict[str, str] = {}
    return {name: seen.setdefault(sha256 or name, name) for name, sha256 in sums.items()}


Job = tuple[Path, Path, str, str, Form]


def _kept(audio: Path, folder: Path, name: str, sha256: str, form: Form) -> CutFile | None:
    """What an earlier run made of the same bytes, if all of it is still there."""
    try:
        receipt = json.loads((folder / RECEIPTS / f"{sha256}.json").read_text("utf-8"))
        slices = tuple(Slice(**each) for each in receipt.pop("slices"))
        fate = Fate(file=name, sha256=sha256, **receipt)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return CutFile(fate, slices) if all(clip_path(folder, each.clip).is_file() for each in slices) else None


def _cut(job: Job) -> CutFile:
    audio, folder, name, sha256, form = job
    try:
        sound = Audio.load(audio / name)
        slices = _slices(sound, folder, f"{_slug(name)}-{sha256[:12]}", form)
    except AudioError as error:
        return CutFile(Fate(name, why=str(error).removeprefix(f"{audio / name} "), sha256=sha256))
    facts: dict[str, Any] = {
        "clips": len(slices),
        "why": "" if slices else f"is too short: {float(sound.seconds):g} s, a clip has {float(form.seconds):g} s",
        "seconds": float(sound.seconds),
        "sample_rate": sound.sample_rate,
        "channels": sound.channels,
    }
    with replacing(folder / RECEIPTS / f"{sha256}.json", force=True) as temporary:
        temporary.write_text(json.dumps({**facts, "slices": [asdict(each) for each in slices]}) + "\n", "utf-8")
    return CutFile(Fate(file=name, sha256=sha256, **facts), tuple(slices))


def _slices(sound: Audio, folder: Path, stem: str, form: Form) -> list[Slice]:
    """The clips of a sound, one after another and written; what is left at its end is shorter than a clip."""
    if sound.seconds < form.seconds:
        return []
    samples = sound.to_channels(1).resample(form.sample_rate).samples
    clock = Timebase(sound.sample_rate, 1)
    slices = []
    for number in range(samples.shape[1] // form.samples):
        clip = f"{stem}-{number:04d}"
        part = samples[:, number * form.samples : (number + 1) * form.samples]
        saved = io.write(clip_path(folder, clip), part, form.sample_rate, force=True)
        start, end = (min(clock.samples(place * form.seconds), sound.length) for place in (number, number + 1))
        slices.append(Slice(clip, start, end - start, saved.gain_db))
    return slices


def _slug(name: str) -> str:
    words = re.sub(r"[\W_]+", "-", PurePosixPath(name).stem.lower(), flags=re.ASCII)
    return words[:40].strip("-") or "clip"
