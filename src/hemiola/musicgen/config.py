"""MusicGen's configuration: text encoder, decoder and codec, read from and written to Hugging Face's config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hemiola.codec.config import EncodecConfig
from hemiola.errors import WeightsError
from hemiola.musicgen.delay import DelayPattern

FEED_FORWARDS = ("relu", "gated-gelu")

# What config.json calls a whole model, and the class by which transformers loads it.
TEXT_ONLY, MELODY = "musicgen", "musicgen_melody"
KINDS = {TEXT_ONLY: "MusicgenForConditionalGeneration", MELODY: "MusicgenMelodyForConditionalGeneration"}

_Config = TypeVar("_Config", "T5Config", "DecoderConfig", "MelodyConfig")


@dataclass(frozen=True)
class T5Config:
    """The text encoder, the encoder half of T5; the fields are named and defaulted as in Hugging Face's `t5`."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    pad_token_id: int = 0
    eos_token_id: int = 1

    def __post_init__(self) -> None:
        positive = set(_names(T5Config)) - {"layer_norm_epsilon", "feed_forward_proj", "pad_token_id", "eos_token_id"}
        _require_counts(self, positive, "text encoder")
        if self.feed_forward_proj not in FEED_FORWARDS:
            known = ", ".join(FEED_FORWARDS)
            raise WeightsError(f"text encoder: feed_forward_proj '{self.feed_forward_proj}' is not one of {known}")
        buckets = self.relative_attention_num_buckets
        if buckets % 2 or buckets < 4 or self.relative_attention_max_distance <= buckets // 4:
            furthest = self.relative_attention_max_distance
            raise WeightsError(
                f"text encoder: {buckets} distance buckets for distances up to {furthest} is no sound pair"
            )

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward layer is a gated one."""
        return self.feed_forward_proj.startswith("gated-")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> T5Config:
        """Read the `text_encoder` part of a config.json; raises WeightsError for anything but a T5 encoder."""
        _require_fixed(values, {"model_type": "t5"}, "text encoder")
        return _read(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Write what `from_dict` reads, with the marks by which transformers knows an encoder."""
        fixed = {"model_type": "t5", "is_decoder": False, "is_encoder_decoder": False, "use_cache": False}
        return {**dataclasses.asdict(self), **fixed, "num_decoder_layers": self.num_layers, "dropout_rate": 0.0}


@dataclass(frozen=True)
class MelodyConfig:
    """How a tune is shown to a decoder; the fields are named and defaulted as in Hugging Face's `musicgen_melody`."""

    num_chroma: int = 12  # pitch classes
    chroma_length: int = 235  # rows

    def __post_init__(self) -> None:
        _require_counts(self, set(_names(MelodyConfig)), "melody")


@dataclass(frozen=True)
class DecoderConfig:
    """The transformer over codebooks; the fields are named and defaulted as in Hugging Face's `musicgen_decoder`.

    Without `melody`, every layer attends to the text. With it, rows for a tune and the text stand before the music.
    """

    vocab_size: int = 2048
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    ffn_dim: int = 4096
    num_codebooks: int = 4
    audio_channels: int = 1
    max_position_embeddings: int = 2048
    initializer_factor: float = 0.02
    melody: MelodyConfig | None = None

    def __post_init__(self) -> None:
        _require_counts(self, set(_names(DecoderConfig)) - {"initializer_factor", "melody"}, "decoder")
        if self.hidden_size % self.num_attention_heads:
            raise WeightsError(
                f"decoder: hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} heads"
            )
        if self.hidden_size % 2 or self.hidden_size < 4:
            raise WeightsError(f"decoder: hidden_size must be even and at least 4, not {self.hidden_size}")
        if self.audio_channels > 2 or self.num_codebooks % self.audio_channels:
            raise WeightsError(
                f"decoder: {self.num_codebooks} codebooks cannot be shared by {self.audio_channels} audio channels"
            )

    @property
    def special(self) -> int:
        """The token that stands where no frame is: one past the codebook's entries."""
        return self.vocab_size

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def model_type(self) -> str:
        """What Hugging Face calls this kind of decoder."""
        return "musicgen_decoder" if self.melody is None else "musicgen_melody_decoder"

    @property
    def pattern(self) -> DelayPattern:
        """Codebook k waits k steps; in stereo the codebooks lie L0 R0 L1 R1 ... and both channels wait alike."""
        delays = tuple(codebook // self.audio_channels for codebook in range(self.num_codebooks))
        return DelayPattern(delays, self.special)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], melody: MelodyConfig | None = None) -> DecoderConfig:
        """Read the `decoder` part of a config.json, of which `melody` is no part.

        Raises WeightsError for a setting that this decoder has not.
        """
        config = dataclasses.replace(_read(cls, {**values, "melody": None}), melody=melody)
        fixed = {
            "model_type": config.model_type,
            "activation_function": "gelu",
            "scale_embedding": False,
            "tie_word_embeddings": False,
            "cross_attention_hidden_size": None,
        }
        _require_fixed(values, fixed, "decoder")
        _require_fixed(values, dict.fromkeys(("pad_token_id", "bos_token_id"), config.special), "decoder")
        return config

    def to_dict(self) -> dict[str, Any]:
        """Write what `from_dict` reads, and what transformers wants beside it."""
        fixed = {
            "model_type": self.model_type,
            "activation_function": "gelu",
            "scale_embedding": False,
            "tie_word_embeddings": False,
            "pad_token_id": self.special,
            "bos_token_id": self.special,
            "dropout": 0.0,
        }
        own = {name: value for name, value in dataclasses.asdict(self).items() if name != "melody"}
        return {**own, **fixed}


@dataclass(frozen=True)
class MusicgenConfig:
    """A whole text-to-music model: `text` conditions `decoder`, which writes the codes of `codec`."""

    text: T5Config
    decoder: DecoderConfig
    codec: EncodecConfig

    def __post_init__(self) -> None:
        decoder, codec = self.decoder, self.codec
        if decoder.vocab_size != codec.codebook_size:
            raise WeightsError(
                f"the decoder has {decoder.vocab_size} tokens and the codec's codebooks {codec.codebook_size}"
            )
        # In stereo the codec codes each channel by itself.
        if decoder.num_codebooks // decoder.audio_channels > codec.codebooks:
            raise WeightsError(f"the decoder has {decoder.num_codebooks} codebooks, more than the codec's")
        if codec.audio_channels != 1 or codec.normalize or codec.chunk_length_s is not None:
            raise WeightsError("audio_encoder: MusicGen wants a mono codec without normalization and without chunks")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MusicgenConfig:
        """Read a MusicGen config.json; raises WeightsError for another kind of model or an unsupported setting."""
        kind = values.get("model_type")
        if kind not in KINDS:
            raise WeightsError(f"not a MusicGen checkpoint: config.json says model_type {kind!r}, wanted 'musicgen'")
        melody = _read(MelodyConfig, values) if kind == MELODY else None
        parts = {}
        for name in ("text_encoder", "decoder", "audio_encoder"):
            if not isinstance(values.get(name), Mapping):
                raise WeightsError(f"config.json has no '{name}' section: is this a whole MusicGen checkpoint?")
            parts[name] = values[name]
        return cls(
            text=T5Config.from_dict(parts["text_encoder"]),
            decoder=DecoderConfig.from_dict(parts["decoder"], melody),
            codec=EncodecConfig.from_dict(parts["audio_encoder"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Write the config.json that `from_dict`, and transformers, reads."""
        melody = self.decoder.melody
        kind = TEXT_ONLY if melody is None else MELODY
        return {
            "architectures": [KINDS[kind]],
            "model_type": kind,
            **({} if melody is None else dataclasses.asdict(melody)),
            "is_encoder_decoder": True,
            "text_encoder": self.text.to_dict(),
            "decoder": self.decoder.to_dict(),
            "audio_encoder": {**self.codec.to_dict(), "model_type": "encodec"},
        }


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _read(cls: type[_Config], values: Mapping[str, Any]) -> _Config:
    return cls(**{name: values[name] for name in _names(cls) if name in values})


def _require_counts(config: object, names: set[str], where: str) -> None:
    for name in sorted(names):
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise WeightsError(f"{where}: {name} must be a positive whole number, not {value!r}")


def _require_fixed(values: Mapping[str, Any], fixed: Mapping[str, Any], where: str) -> None:
    for name, wanted in fixed.items():
        found = values.get(name, wanted)
        if found != wanted:
            raise WeightsError(f"{where}: {name} {found!r} is not supported, only {wanted!r}")
