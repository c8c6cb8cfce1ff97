"""The latents of a dataset of pairs: made once for each codec, and what a blend training is fed with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hemiola.audio.writing import replacing
from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import Encodec
from hemiola.codec.fingerprint_torch import fingerprint
from hemiola.errors import InputError
from hemiola.timebase import Timebase
from hemiola.train.pairs import LATENTS, Cut, Pair, PairFolder

MODES = ("pairs", "unity", "shuffle_targets")


class LatentCache:
    """Latents of every clip, float16 [D, frames], a file each, known by the weights of the codec that made them.

    Half precision is half the disk and half the reading; what it loses lies 70 dB below the latents, far below what
    the codec itself loses, and every loss compares with what is decoded from these same latents.
    """

    def __init__(self, dataset: PairFolder, codec: Encodec) -> None:
        check_codec(codec.config)
        if codec.config.sampling_rate != dataset.settings.get("sample_rate"):
            raise InputError(
                f"{dataset.folder} holds clips at {dataset.settings.get('sample_rate')} Hz, the codec takes "
                f"{codec.config.sampling_rate} Hz: choose another of the two"
            )
        self.dataset, self.codec = dataset, codec
        self.folder = dataset.folder / LATENTS / fingerprint(codec)

    def build(self, progress: Callable[[int, int], None] | None = None) -> Path:
        """Encode what is not there yet; returns the folder that holds NAME.npy for each clip."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for done, clip in enumerate(self.dataset.cuts, 1):
            path = self.folder / f"{clip}.npy"
            if not path.exists():
                latents = self._encoded(clip)
                with replacing(path, force=True) as temporary:
                    np.save(temporary, latents)
            if progress:
                progress(done, len(self.dataset.cuts))
        return self.folder

    def _encoded(self, clip: str) -> NDArray[np.float16]:
        latents = self.codec.latents_array(self.dataset.audio(clip)[None])[0]
        if not np.abs(latents).max() <= np.finfo(np.float16).max:
            raise InputError(f"the codec's latents of {clip} are not finite or beyond 65504: choose another codec")
        return latents.astype(np.float16)


def check_codec(config: EncodecConfig) -> None:
    """Raise InputError for a codec whose latents cannot be blended."""
    if config.channels != 1 or config.chunk_length is not None:
        raise InputError("pairs need a codec with one channel and without chunks, such as facebook/encodec_24khz")


class PairLatents(Dataset):
    """Items for a blend training: input and target of a pair, and a stretch of other music, all as latents.

    With a seed, item i is drawn by (seed, i) alone and each pass over the pairs is a fresh shuffle; without, item i is
    pair i. Modes: "pairs" as they are; "unity", where the target is the input; "shuffle_targets", where each target is
    that of another pair of the same split. With `center`, the codec's clock, items also hold the samples in the middle
    of both clips that `frames` frames span. Raises InputError for a split that cannot give that.
    """

    def __init__(
        self,
        dataset: PairFolder,
        split: str,
        latents: Path,
        *,
        frames: int,
        seed: int | None = None,
        mode: str = "pairs",
        center: Timebase | None = None,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"no mode is called '{mode}': choose one of {', '.join(MODES)}")
        self.dataset, self.latents, self.frames = dataset, Path(latents), frames
        self.split, self.seed, self.mode, self.center = split, seed, mode, center
        self.pairs: list[Pair] = dataset.of(split)
        self._real = _RealClips(dataset, split)
        self._check()

    def __len__(self) -> int:
        """One item a pair; a training run asks for items beyond it, a validation does not."""
        return len(self.pairs)

    def __getitem__(self, item: int) -> dict[str, Tensor | int]:
        """Float32 input [D, T], target [D, T] and real [D, F], of a track beside theirs; item, and row in `pairs`.

        With `center` also float32 input_audio and target_audio, [1, samples].
        """
        row, names = self.chosen(item)
        rng = np.random.default_rng((self.seed or 0, item, 2))
        real = self._load(self._real.draw(names, rng))
        start = int(rng.integers(real.shape[1] - self.frames + 1))
        shown, heard = (_tensor(self._load(name)) for name in names)
        stretch = _tensor(real[:, start : start + self.frames])
        given: dict[str, Tensor | int] = {"input": shown, "target": heard, "real": stretch, "item": item, "pair": row}
        if self.center is not None:
            given.update(self._middles(names, self.center))
        return given

    def chosen(self, item: int) -> tuple[int, tuple[str, str]]:
        """Which pair item i is, by its row in `pairs`, and the clips that it takes as input and target."""
        row = item if self.seed is None else self._shuffled(item)
        pair = self.pairs[row]
        if self.mode == "unity":
            return row, (pair.input, pair.input)
        if self.mode == "pairs":
            return row, (pair.input, pair.target)
        rng = np.random.default_rng((self.seed or 0, item, 3))
        # Drawn until it is another: a list of all the others for each pair would be long.
        while (target := self.pairs[rng.integers(len(self.pairs))].target) in (pair.input, pair.target):
            pass
        return row, (pair.input, target)

    def audio(self, item: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Input and target of an item as samples, float32 [1, samples] each."""
        _, (shown, heard) = self.chosen(item)
        return self.dataset.audio(shown), self.dataset.audio(heard)

    def _middles(self, names: tuple[str, str], clock: Timebase) -> dict[str, Tensor]:
        sounds = [self.dataset.audio(name) for name in names]
        middles = [np.ascontiguousarray(each[:, clock.center(each.shape[1], self.frames)]) for each in sounds]
        return {f"{name}_audio": torch.from_numpy(each) for name, each in zip(("input", "target"), middles)}

    def _shuffled(self, item: int) -> int:
        turn, place = divmod(item, len(self.pairs))
        return int(np.random.default_rng((self.seed or 0, turn, 1)).permutation(len(self.pairs))[place])

    def _load(self, clip: str) -> NDArray[np.float16]:
        try:
            return np.load(self.latents / f"{clip}.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise InputError(
                f"the latents of {clip} cannot be read ({error}): remove the file, make them again"
            ) from None

    def _check(self) -> None:
        if not self.pairs:
            raise InputError(f"{self.dataset.folder} holds no pairs for {self.split}")
        # With three targets, one is neither a pair's input nor its own target, whichever pair it is.
        if self.mode == "shuffle_targets" and len({pair.target for pair in self.pairs}) < 3:
            raise InputError(f"the {self.split} pairs of {self.dataset.folder} have too few targets to be shuffled")
        clips = self.dataset.cuts
        taken = max(len({clips[pair.input].track, clips[pair.target].track}) for pair in self.pairs)
        if self._real.tracks() <= (2 if self.mode == "shuffle_targets" else taken):
            raise InputError(f"{self.dataset.folder} needs a track beside those of each pair: add audio from another")
        if not self.frames <= self._load(self.pairs[0].input).shape[1]:
            raise InputError(f"the clips of {self.dataset.folder} are shorter than an output of {self.frames} frames")
        if self.center is not None:
            try:
                self._middles((self.pairs[0].input, self.pairs[0].target), self.center)
            except ValueError as error:
                raise InputError(f"the clips of {self.dataset.folder} have no middle: {error}") from None


class _RealClips:
    """Clips to judge against: of the same split, and of the training's where that has no third track."""

    def __init__(self, dataset: PairFolder, split: str) -> None:
        self.clips = dataset.cuts
        in_split = [cut for cut in dataset.cuts.values() if cut.split == split]
        in_training = [cut for cut in dataset.cuts.values() if cut.split == "train"]
        self.pools: tuple[list[Cut], list[Cut]] = (in_split, in_training)

    def tracks(self) -> int:
        """How many tracks there are to choose from."""
        return len({cut.track for pool in self.pools for cut in pool})

    def draw(self, names: tuple[str, str], rng: np.random.Generator) -> str:
        """A clip of a track to which neither of the named ones belongs; there must be one."""
        taken = {self.clips[name].track for name in names}
        pool = next(pool for pool in self.pools if any(cut.track not in taken for cut in pool))
        # Drawn until it fits: the tracks to avoid are two of many, and a list for each draw would be long.
        while (cut := pool[rng.integers(len(pool))]).track in taken:
            pass
        return cut.clip


def _tensor(latents: NDArray[np.float16]) -> Tensor:
    return torch.from_numpy(latents.astype(np.float32))
