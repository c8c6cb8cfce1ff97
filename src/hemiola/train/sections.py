"""The sections of a run's config beside `run`, `recipe` and `model`: the data, and what is trained already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hemiola.musicgen.config import T5Config


@dataclass(frozen=True)
class Data:
    """Where the clips are: a folder of audio, composed first where `synthetic` says so.

    With train/ and valid/ in it, those are the two parts; otherwise a twentieth of the files is held out.
    """

    folder: str
    synthetic: Mapping[str, Any] | None = None
    segment_seconds: float = 1.0


@dataclass(frozen=True)
class Text:
    """The tokenizer (so many words) and the text encoder that are learned with a language model."""

    words: int = 512
    d_model: int = 128
    d_kv: int = 32
    d_ff: int = 512
    num_layers: int = 2
    num_heads: int = 4

    def encoder_config(self, vocab_size: int) -> T5Config:
        """The text encoder's configuration for a vocabulary."""
        shape = {name: value for name, value in asdict(self).items() if name != "words"}
        return T5Config(vocab_size=vocab_size, **shape)


@dataclass(frozen=True)
class TrainedCodec:
    """A trained codec, by name or folder: the one whose tokens a language model learns, or the start of a training."""

    path: str


@dataclass(frozen=True)
class TrainedModel:
    """A trained language model, by name or folder, from which a training goes on."""

    path: str
