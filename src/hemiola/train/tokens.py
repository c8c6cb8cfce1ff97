"""Codec tokens of a clip folder, encoded once and kept: what a language model over codebooks trains on."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch.utils.data import Dataset

from hemiola.codec.encodec_torch import Encodec
from hemiola.musicgen.delay import DelayPattern
from hemiola.musicgen.tokenizer import Tokenizer
from hemiola.timebase import Timebase
from hemiola.train.data import Clip, Segments

SHARD_CLIPS = 256
NUMBER = re.compile(r"\d+")


class TokenCache:
    """Codes of every clip, int16 [codebooks, frames] each, in shards on disk, each of them made once.

    A shard is known by the codec's weights and its clips: where each stands beside the cache, its length and its size.
    """

    def __init__(self, folder: Path, codec: Encodec, clips: Sequence[Clip]) -> None:
        self.folder, self.codec, self.clips = Path(folder) / fingerprint(codec), codec, list(clips)

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
            partial = path.with_suffix(".partial")
            save_file(tensors, partial)
            partial.replace(path)
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
            whole = Segments([clip], clock, clock.seconds(_length(clip, config.sampling_rate)), config.channels, 0)
            audio = whole[0][None].to(device)
            codes = self.codec.quantize(self.codec.latents(audio), config.codebooks_for())
            yield codes[0].to("cpu", torch.int16).numpy()


def _length(clip: Clip, sample_rate: int) -> int:
    return clip.samples * sample_rate // clip.sample_rate


def fingerprint(codec: Encodec) -> str:
    """A short name for the exact weights that make tokens, so that those of another codec are never taken for its own.

    The decoder has no say in it: it may be trained further, and the tokens stay what they are.
    """
    digest = hashlib.sha256(json.dumps(codec.config.to_dict(), sort_keys=True, default=str).encode())
    for name, tensor in sorted(codec.state_dict().items()):
        if name.startswith("decoder."):
            continue
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


# Half of the items begin where their clip does, the others anywhere in it.
FROM_START_SHARE = 0.5


@dataclass(frozen=True)
class TextNoise:
    """What is done to captions in training.

    `dropped` is how often one is left out whole (guidance needs that), `unknown` how often a word becomes the unknown
    one, `number` how far numbers are moved at most, as a share: neighbouring tempi then share what they teach.
    """

    dropped: float = 0.0
    unknown: float = 0.0
    number: float = 0.0
    unknown_token: int = 2


class CaptionedTokens(Dataset):
    """Items for a language model: a delay pattern of tokens and the caption's text tokens.

    With a seed, item i is drawn by (seed, i) alone and each pass over the clips is a fresh shuffle; without, item i is
    clip i. `frames` is the longest part of a clip that is taken.
    """

    def __init__(
        self,
        codes: Sequence[np.ndarray],
        captions: Sequence[str],
        tokenizer: Tokenizer,
        pattern: DelayPattern,
        *,
        frames: int,
        noise: TextNoise | None = None,
        seed: int | None = None,
    ) -> None:
        self.codes, self.pattern, self.frames = list(codes), pattern, frames
        self.captions, self.tokenizer = list(captions), tokenizer
        self.noise, self.seed = noise or TextNoise(), seed

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, item: int) -> dict[str, np.ndarray]:
        """Pattern [K, steps + 1], where it holds a frame (bool), and text tokens (none: trained without text)."""
        rng = np.random.default_rng((self.seed or 0, item))
        chosen = item if self.seed is None else self._shuffled(item)
        tokens, inside = self._pattern(self.codes[chosen].astype(np.int64), rng)
        return {"tokens": tokens, "inside": inside, "text": self._text(chosen, rng)}

    def _shuffled(self, item: int) -> int:
        turn, place = divmod(item, len(self.codes))
        return int(np.random.default_rng((self.seed or 0, turn, 1)).permutation(len(self.codes))[place])

    def _pattern(self, codes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        spare = codes.shape[1] - self.frames
        start = int(rng.integers(spare + 1)) if spare > 0 and rng.random() >= FROM_START_SHARE else 0
        codes = codes[:, start : start + self.frames]
        padded = np.pad(codes, ((0, 0), (0, self.frames - codes.shape[1])))
        inside = self.pattern.mask(self.frames) & (self.pattern.frame_index(self.frames) < codes.shape[1])
        return np.where(inside, self.pattern.build(padded), self.pattern.special), inside

    def _text(self, chosen: int, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < self.noise.dropped:
            return np.zeros(0, dtype=np.int64)

        def moved(number: re.Match[str]) -> str:
            return str(round(int(number[0]) * (1 + self.noise.number * rng.uniform(-1, 1))))

        text = np.array(self.tokenizer.encode(NUMBER.sub(moved, self.captions[chosen])), dtype=np.int64)
        text[:-1][rng.random(len(text) - 1) < self.noise.unknown] = self.noise.unknown_token
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
        tokens = torch.from_numpy(np.stack([item["tokens"] for item in items]))
        inside = torch.from_numpy(np.stack([item["inside"] for item in items]))
        return {"tokens": tokens, "inside": inside, "text": text, "text_mask": mask}
