"""Training data: folders of audio clips with captions, and the order in which a run sees them.

A clip folder holds audio files and, beside them, `captions.jsonl` ({"file", "caption"} a line, and "starts" where it is
known at which seconds a part may begin, as on a beat), or a `.txt` or `.json` ({"caption"} or {"description"}) a clip.
What step k of a run sees is a pure function of (seed, k), so a resumed run goes on exactly, on any number of ranks.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hemiola.audio.resample import resample
from hemiola.errors import AudioError, InputError
from hemiola.timebase import Seconds, Timebase
from hemiola.train.sources import AUDIO_SUFFIXES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """One audio file of a clip folder with its caption and the seconds at which a part may begin, as far as told."""

    path: Path
    caption: str
    samples: int
    sample_rate: int
    starts: tuple[float, ...] = ()


def clips(folder: Path) -> list[Clip]:
    """Every readable audio file below `folder`, in name order; a log line names each that is not readable.

    Raises InputError when none is left.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no such folder of audio: {folder}")
    captions = _captions(folder)
    found = []
    for path in sorted(each for each in folder.rglob("*") if each.suffix.lower() in AUDIO_SUFFIXES):
        try:
            info = soundfile.info(path)
        except (soundfile.LibsndfileError, OSError):
            log.warning("passed over %s: it cannot be read as audio", path)
            continue
        text, starts = captions.get(path.relative_to(folder).as_posix(), ("", ()))
        found.append(Clip(path, text or _text_beside(path), info.frames, info.samplerate, starts))
    if not found:
        raise InputError(f"no audio that can be read in {folder}: expected {', '.join(AUDIO_SUFFIXES)}")
    return found


VALID_SHARE = 0.05


def parted(folder: Path) -> tuple[list[Clip], list[Clip]]:
    """The clips of `folder` to train and to validate with: its train/ and valid/, or else a twentieth is held out.

    Which files those are depends on their names alone. Raises InputError where there are not enough.
    """
    folder = Path(folder)
    if (folder / "train").is_dir():
        return clips(folder / "train"), clips(folder / "valid")
    found = clips(folder)
    if len(found) < 2:
        raise InputError(f"only one file of audio in {folder}: one to train with and one to validate with are needed")
    ranked = sorted(found, key=lambda clip: hashlib.sha256(clip.path.relative_to(folder).as_posix().encode()).digest())
    held_out = {clip.path for clip in ranked[: max(1, round(VALID_SHARE * len(ranked)))]}
    return [clip for clip in found if clip.path not in held_out], [clip for clip in found if clip.path in held_out]


def _captions(folder: Path) -> dict[str, tuple[str, tuple[float, ...]]]:
    listing = folder / "captions.jsonl"
    if not listing.exists():
        return {}
    captions = {}
    for number, line in enumerate(listing.read_text("utf-8").splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
                captions[str(row["file"])] = str(row["caption"]), tuple(map(float, row.get("starts", ())))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise InputError(f'{listing}, line {number}: expected {{"file": ..., "caption": ...}}') from None
    return captions


def _text_beside(path: Path) -> str:
    text, described = path.with_suffix(".txt"), path.with_suffix(".json")
    if text.exists():
        return text.read_text("utf-8").strip()
    if not described.exists():
        return ""
    try:
        row = json.loads(described.read_text("utf-8"))
        return str(row.get("caption") or row.get("description") or "").strip()
    except (ValueError, AttributeError):
        raise InputError(f'{described} holds no caption: expected {{"caption": ...}}') from None


class Segments(Dataset):
    """Random segments of clips: item i is drawn by (seed, i) alone. Gives float32 [channels, samples]."""

    def __init__(self, clips: Sequence[Clip], timebase: Timebase, seconds: Seconds, channels: int, seed: int) -> None:
        self.samples = timebase.samples(seconds)
        self.clips = [clip for clip in clips if clip.samples * timebase.sample_rate >= self.samples * clip.sample_rate]
        if not self.clips:
            raise InputError(f"no clip is as long as a training segment of {seconds} s: make segments shorter")
        self.sample_rate, self.channels, self.seed = timebase.sample_rate, channels, seed

    def __len__(self) -> int:
        """One item a clip; a training run asks for items beyond it, a validation does not."""
        return len(self.clips)

    def __getitem__(self, item: int) -> torch.Tensor:
        rng = np.random.default_rng((self.seed, item))
        clip = self.clips[rng.integers(len(self.clips))]
        wanted = -(-self.samples * clip.sample_rate // self.sample_rate)
        start = int(rng.integers(clip.samples - wanted + 1))
        mixed = _to_channels(_read(clip.path, start, wanted), self.channels)
        if clip.sample_rate != self.sample_rate:
            mixed = resample(mixed, clip.sample_rate, self.sample_rate)
        return torch.from_numpy(np.ascontiguousarray(mixed[:, : self.samples]))


def _read(path: Path, start: int, samples: int) -> np.ndarray:
    """Float32 [channels, samples] of a file from `start` on; raises AudioError where it does not hold them."""
    try:
        audio, _ = soundfile.read(path, samples, start, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(f"cannot read {path} ({error}): mend or remove it") from None
    if len(audio) < samples:
        raise AudioError(f"{path} ends before its own header says: mend or remove it")
    if not np.isfinite(audio).all():
        raise AudioError(f"{path} holds samples that are not finite: mend or remove it")
    return np.ascontiguousarray(audio.T)


def _to_channels(audio: np.ndarray, channels: int) -> np.ndarray:
    if audio.shape[0] == channels:
        return audio
    return np.repeat(audio.mean(0, keepdims=True, dtype=np.float32), channels, axis=0)


class StepOrder(Sampler):
    """Item numbers by step: rank r of W takes its share of global batch k, from any step on.

    Where a step is made in `parts`, part p of all ranks together is part p of the global batch, whatever W is.
    The length is that of the whole run, whichever step it starts from: Lightning counts what came before as seen.
    """

    def __init__(self, steps: int, batch: int, rank: int = 0, world: int = 1, start: int = 0, parts: int = 1) -> None:
        if batch % (world * parts):
            each = f" in {parts} parts" if parts > 1 else ""
            raise InputError(f"a global batch of {batch} cannot be shared by {world} processes{each}")
        self.steps, self.batch, self.rank, self.world, self.start, self.parts = steps, batch, rank, world, start, parts

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch // (self.world * self.parts)
        offsets = [
            (part * self.world + self.rank) * share + each for part in range(self.parts) for each in range(share)
        ]
        for step in range(self.start, self.steps):
            yield [step * self.batch + offset for offset in offsets]

    def __len__(self) -> int:
        return self.steps


class StepData(L.LightningDataModule):
    """Feeds a run by step number; `batch` is global, shared evenly by the ranks and by the parts of a step."""

    def __init__(
        self, train: Dataset, valid: Dataset | None, *, steps: int, batch: int, workers: int = 0, parts: int = 1
    ) -> None:
        super().__init__()
        self.train, self.valid = train, valid
        self.steps, self.batch, self.workers, self.parts = steps, batch, workers, parts

    def train_dataloader(self) -> DataLoader:
        """All steps that are left of the run."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        # Not `completed`: a checkpoint written at the end of a step does not count that step as completed yet.
        # The loader is only asked for while a fit runs; what Lightning restored tells how far a resumed run had come.
        start = trainer.fit_loop.epoch_loop.batch_progress.current.processed if trainer else 0  # type: ignore[attr-defined]
        order = StepOrder(self.steps, self.batch, rank, world, start, self.parts)
        collate = getattr(self.train, "collate", None)
        return DataLoader(self.train, batch_sampler=order, num_workers=self.workers, collate_fn=collate)

    def val_dataloader(self) -> DataLoader | list:
        """The validation items in order, the same on every rank."""
        if self.valid is None:
            return []
        collate = getattr(self.valid, "collate", None)
        return DataLoader(self.valid, batch_size=-(-self.batch // self.parts), collate_fn=collate)
