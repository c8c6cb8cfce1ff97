"""Clip folders filled with synthetic music: training data that anyone can make again, from seeds."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import soundfile

from hemiola.synth.captions import describe
from hemiola.synth.plan import plan
from hemiola.synth.render import render
from hemiola.synth.score import Brief, truth_of
from hemiola.synth.seeds import split_seed, stream
from hemiola.train.pools import spread


@dataclass(frozen=True)
class Synthetic:
    """How many pieces to compose for training and for validation, and in which form.

    With a `frame_rate`, beats last whole frames of a codec at that rate, and captions still name any whole number of
    bpm; `strict` time has no swing, and nobody early or late. `leads` are what plays the melody, in turn; with none,
    each piece's seed draws one.
    """

    pieces: int
    valid_pieces: int = 64
    seconds: float = 8.0
    sample_rate: int = 32000
    channels: int = 1
    frame_rate: int | None = None
    strict: bool = False
    leads: tuple[str, ...] = ()

    def brief(self, index: int) -> Brief:
        """What piece `index` has to be."""
        lead = self.leads[index % len(self.leads)] if self.leads else None
        return Brief(lead=lead, frame_rate=self.frame_rate, strict=self.strict)


def fill(
    folder: Path, wanted: Synthetic, *, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> tuple[Path, Path]:
    """Compose what is not there yet into `folder`/train and `folder`/valid; returns both.

    Files are FLAC with 16 bits, named by index; `captions.jsonl` holds caption, beats, seed and truth a line.
    """
    jobs = [
        (Path(folder) / split, split, index, wanted)
        for split, count in (("train", wanted.pieces), ("valid", wanted.valid_pieces))
        for index in range(count)
    ]
    for split in ("train", "valid"):
        (Path(folder) / split).mkdir(parents=True, exist_ok=True)
    rows: dict[Path, list[str]] = {}
    for place, row in spread(_piece, jobs, workers, progress):
        rows.setdefault(place, []).append(row)
    for place, lines in rows.items():
        # Beside it first: another rank of a distributed run may be reading, or writing the same.
        partial = _beside(place / "captions.jsonl")
        partial.write_text("\n".join(lines) + "\n", "utf-8")
        partial.replace(place / "captions.jsonl")
    return Path(folder) / "train", Path(folder) / "valid"


def _piece(job: tuple[Path, str, int, Synthetic]) -> tuple[Path, str]:
    folder, split, index, wanted = job
    seed = split_seed(split, index)
    path = folder / f"{index:06d}.flac"
    score = plan(seed, str(wanted.seconds), wanted.brief(index))
    if not path.exists():
        audio = render(score, sample_rate=wanted.sample_rate, channels=wanted.channels)
        partial = _beside(path)
        soundfile.write(partial, audio.T, wanted.sample_rate, subtype="PCM_16", format="FLAC")
        partial.replace(path)
    caption = describe(score, stream(seed, "caption"))
    truth = truth_of(score)
    row = {"file": path.name, "caption": caption, "starts": truth.beat_seconds, "seed": seed}
    return folder, json.dumps({**row, "truth": dataclasses.asdict(truth)}, default=float)


def _beside(path: Path) -> Path:
    return path.with_suffix(f".{secrets.token_hex(4)}.partial")
