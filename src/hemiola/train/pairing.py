"""Pairing: which tracks train and which validate, and which two clips make a pair; drawn by seed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hemiola.errors import HemiolaError, InputError
from hemiola.train import pairs as datasets
from hemiola.train.cutting import REPORT, CutFile
from hemiola.train.pairs import SPLITS, Cut, Pair, PairFolder
from hemiola.train.sources import track_of

# How many tracks a pair is of: its clips come from within one, or from across two.
TRACKS = {"within": 1, "across": 2}


@dataclass(frozen=True)
class Pairing:
    """How clips are paired, which share of the tracks is kept for validation, and the seed that draws both.

    Raises InputError for a kind or a share that there is not.
    """

    kind: str = "across"
    valid_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in TRACKS:
            raise InputError(f"no pairing is called '{self.kind}': choose one of {', '.join(TRACKS)}")
        if not 0 <= self.valid_share < 1:
            raise InputError(f"the share for validation must be from 0 to below 1, not {self.valid_share}")

    def splits(self, clips: Mapping[str, int]) -> dict[str, str]:
        """Track -> split, for tracks with so many clips each: a track is never in both.

        Validation gets its share of the tracks that can be paired, at least as many as a pair is of, and none where
        training would be left with fewer. Raises HemiolaError where no pair can be made at all.
        """
        least = TRACKS[self.kind]
        able = sorted((track for track, count in clips.items() if count * least > 1), key=self._rank)
        if len(able) < least:
            remedy = "add music, or pair within tracks" if least > 1 else "make clips shorter, or pair across tracks"
            raise HemiolaError(f"no pair can be made {self.kind} tracks: there are {len(clips)} with clips; {remedy}")
        wanted = max(least, round(self.valid_share * len(able))) if self.valid_share else 0
        held_out = set(able[: min(wanted, len(able) - least) if len(able) >= 2 * least else 0])
        return {track: SPLITS[track in held_out] for track in clips}

    def _rank(self, track: str) -> str:
        # A hash of each track's own, so that music that is added later moves few of the others.
        return hashlib.sha256(f"{self.seed} {track}".encode("utf-8", "surrogatepass")).hexdigest()

    def pairs(self, cuts: Sequence[Cut]) -> list[Pair]:
        """Each clip once as an input, its target from its own track or from another one of its split.

        Within tracks each clip is a target once, too; a track with a single clip gives no pair.
        """
        rng = np.random.default_rng(self.seed)
        paired = _within if self.kind == "within" else _across
        parts = (sorted((cut for cut in cuts if cut.split == split), key=lambda cut: cut.clip) for split in SPLITS)
        return [pair for part in parts for pair in paired(part, rng)]


def _within(cuts: Sequence[Cut], rng: np.random.Generator) -> list[Pair]:
    tracks: dict[str, list[Cut]] = {}
    for cut in cuts:
        tracks.setdefault(cut.track, []).append(cut)
    pairs = []
    for clips in tracks.values():
        # Around a circle: nobody meets themselves.
        circle = [clips[place] for place in rng.permutation(len(clips))]
        others = [*circle[1:], circle[0]]
        pairs += [Pair(one.split, one.clip, other.clip) for one, other in zip(circle, others) if one is not other]
    return sorted(pairs, key=lambda pair: pair.input)


def _across(cuts: Sequence[Cut], rng: np.random.Generator) -> list[Pair]:
    if len({cut.track for cut in cuts}) < TRACKS["across"]:
        return []
    pairs = []
    for cut in cuts:
        while (other := cuts[int(rng.integers(len(cuts)))]).track == cut.track:
            pass
        pairs.append(Pair(cut.split, cut.clip, other.clip))
    return pairs


def make(audio: Path, folder: Path, files: Sequence[CutFile], pairing: Pairing) -> PairFolder:
    """The dataset of pairs in `folder`, of what was cut from the sound files in `audio`.

    Raises HemiolaError where no file gave a clip, or no two clips make a pair.
    """
    if not any(each.fate.used for each in files):
        raise HemiolaError(f"no audio in {audio} can be used ({len(files)} files): {folder / REPORT} says why")
    counts: Counter[str] = Counter()
    for each in files:
        counts[track_of(each.fate.file)] += each.fate.clips
    splits = pairing.splits(+counts)
    cuts = [cut for each in files for cut in _cuts(each, splits)]
    about = {"audio": str(audio.resolve()), "pairing": asdict(pairing)}
    datasets.write_settings(folder, {**(datasets.read_settings(folder) or {}), **about})
    datasets.write(folder, cuts, pairing.pairs(cuts))
    return datasets.read(folder)


def _cuts(each: CutFile, splits: Mapping[str, str]) -> list[Cut]:
    fate, track = each.fate, track_of(each.fate.file)
    return [
        Cut(track=track, split=splits[track], source=fate.file, sample_rate=fate.sample_rate, sha256=fate.sha256,
            **asdict(part))
        for part in each.slices
    ]  # fmt: skip
