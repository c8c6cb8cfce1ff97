"""Codec tokens of a clip folder, encoded once and kept: what a language model over codebooks trains on."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch.utils.data import Dataset

from hemiola.audio.writing import replacing
from hemiola.codec.encodec_torch import Encodec
from hemiola.codec.fingerprint_torch import fingerprint
from hemiola.musicgen.delay import DelayPattern
from hemiola.musicgen.tokenizer import Tokenizer
from hemiola.timebase import Timebase
from hemiola.train.captions import UNKNOWN_ID
from hemiola.train.data import Clip, Segments

SHARD_CLIPS = 256
NUMBER = re.compile(r"\d+")


class TokenCache:
    """Codes of every clip, int16 [codebooks, frames] each, in shards on disk, each of them made once.

    A shard is known by the codec's weights and its clips: where each stands beside the cache, its length and its size.
    With two `sides` a mono codec codes left and right by themselves, and their codebooks lie L0 R0 L1 R1 ...
    """

    def __init__(self, folder: Path, codec: Encodec, clips: Sequence[Clip], sides: int = 1) -> None:
        self.folder = Path(folder) / (fingerprint(codec) + ("-stereo" if sides == 2 else ""))
        self.codec, self.clips, self.sides = codec, list(clips), sides

    def build(self, progress: Callable[[int, int], None] | None = None) -> list[np.ndarray]:
        """Encode what is not there yet and return all codes in the clips' order."""
        self.folder.mkdir(parents=True, exist_ok=True)
        codes = []
        for start in range(0, len(self.clips), SHARD_CLIPS):
            codes += self._shard(self.clips[start : start + SHARD_CLIPS])
            if progress:
                progress(len(codes), len(self.clips))
        return codes

    def _shard(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        name = hashlib.sha256("\n".join(map(self._identity, clips)).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            tensors = {f"{number:04d}": codes for number, codes in enumerate(self._encode(clips))}
            with replacing(path, force=True) as partial:  # another rank may be writing the same
                save_file(tensors, partial)
        stored = load_file(path)
        return [stored[key] for key in sorted(stored)]

    def _identity(self, clip: Clip) -> str:
        # With its folder: train/000000.flac and valid/000000.flac are two clips. Relative: a data folder may be moved.
        place = os.path.relpath(clip.path, self.folder)
        return f"{place} {clip.samples} {clip.path.stat().st_size}"

    @torch.inference_mode()
    def _encode(self, clips: Sequence[Clip]) -> Iterator[np.ndarray]:
        config, device = self.codec.config, next(self.codec.parameters()).device
        clock = Timebase(config.sampling_rate, 1)
        for clip in clips:
            seconds = clock.seconds(_length(clip, config.sampling_rate))
            whole = Segments([clip], clock, seconds, self.sides * config.channels, 0)
            audio = whole[0].unflatten(0, (self.sides, -1)).to(device)
            codes = self.codec.quantize(self.codec.latents(audio), config.codebooks_for())
            yield codes.swapaxes(0, 1).flatten(0, 1).to("cpu", torch.int16).numpy()


def _length(clip: Clip, sample_rate: int) -> int:
    return clip.samples * sample_rate // clip.sample_rate


# Half of the items begin where their clip does, the others at one of its starts, or anywhere where none is known.
FROM_START_SHARE = 0.5
STACKED = ("tokens", "inside", "hidden", "seed")


@dataclass(frozen=True)
class Noise:
    """What is done to items in training; shares of items, of words, of a number's size, and of items.

    Captions left out whole (guidance needs that); words that become the unknown one; how far numbers are moved at most,
    so that neighbouring tempi share what they teach; and items of which a run of tokens is hidden from the model, often
    from the start: what the music before would tell, the text then has to.
    """

    text_dropped: float = 0.0
    words_unknown: float = 0.0
    numbers_moved: float = 0.0
    history_hidden: float = 0.0


class CaptionedTokens(Dataset):
    """Items for a language model: a delay pattern of tokens and the caption's text tokens.

    With a seed, item i is drawn by (seed, i) alone and each pass over the clips is a fresh shuffle; without, item i is
    clip i. `frames` is the longest part of a clip that is taken, `starts` a clip's frames at which one may begin.
    """

    def __init__(
        self,
        codes: Sequence[np.ndarray],
        captions: Sequence[str],
        tokenizer: Tokenizer,
        pattern: DelayPattern,
        *,
        frames: int,
        starts: Sequence[Sequence[int]] = (),
        noise: Noise | None = None,
        seed: int | None = None,
    ) -> None:
        self.codes, self.pattern, self.frames = list(codes), pattern, frames
        self.captions, self.tokenizer = list(captions), tokenizer
        self.starts = list(starts) or [()] * len(self.codes)
        self.noise, self.seed = noise or Noise(), seed

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, item: int) -> dict[str, np.ndarray]:
        """Pattern [K, steps + 1], where it holds a frame, what of it is hidden (both bool), text tokens, and a seed."""
        rng = np.random.default_rng((self.seed or 0, item))
        chosen = item if self.seed is None else self._shuffled(item)
        tokens, inside = self._pattern(chosen, rng)
        text = self._text(chosen, rng)
        hidden = self._hidden(tokens.shape[1], rng)
        seed = np.array(rng.integers(1 << 62))  # of what is drawn for this item later on
        return {"tokens": tokens, "inside": inside, "hidden": hidden, "text": text, "seed": seed}

    def _shuffled(self, item: int) -> int:
        turn, place = divmod(item, len(self.codes))
        return int(np.random.default_rng((self.seed or 0, turn, 1)).permutation(len(self.codes))[place])

    def _pattern(self, chosen: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        codes = self.codes[chosen].astype(np.int64)
        spare = codes.shape[1] - self.frames
        start = 0
        if spare > 0 and rng.random() >= FROM_START_SHARE:
            known = [each for each in self.starts[chosen] if each <= spare]
            start = int(rng.choice(known) if known else rng.integers(spare + 1))
        codes = codes[:, start : start + self.frames]
        padded = np.pad(codes, ((0, 0), (0, self.frames - codes.shape[1])))
        inside = self.pattern.mask(self.frames) & (self.pattern.frame_index(self.frames) < codes.shape[1])
        return np.where(inside, self.pattern.build(padded), self.pattern.special), inside

    def _hidden(self, length: int, rng: np.random.Generator) -> np.ndarray:
        hidden = np.zeros(length, dtype=bool)
        if rng.random() < self.noise.history_hidden:
            start = int(rng.integers(length)) if rng.random() < 0.5 else 0
            hidden[start : int(rng.integers(start, length)) + 1] = True
        return hidden

    def _text(self, chosen: int, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < self.noise.text_dropped:
            return np.zeros(0, dtype=np.int64)

        def moved(number: re.Match[str]) -> str:
            return str(round(int(number[0]) * (1 + self.noise.numbers_moved * rng.uniform(-1, 1))))

        text = np.array(self.tokenizer.encode(NUMBER.sub(moved, self.captions[chosen])), dtype=np.int64)
        text[:-1][rng.random(len(text) - 1) < self.noise.words_unknown] = UNKNOWN_ID
        return text

    @staticmethod
    def collate(items: Sequence[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Stack items; text is padded with 0 and `text_mask` tells where it is."""
        longest = max(1, max(len(item["text"]) for item in items))
        text = torch.zeros(len(items), longest, dtype=torch.long)
        mask = torch.zeros(len(items), longest, dtype=torch.long)
        for row, item in enumerate(items):
            text[row, : len(item["text"])] = torch.from_numpy(item["text"])
            mask[row, : len(item["text"])] = 1
        stacked = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in STACKED}
        return {**stacked, "text": text, "text_mask": mask}
