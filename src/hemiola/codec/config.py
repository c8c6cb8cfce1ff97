"""What an EnCodec checkpoint says about itself: `EncodecConfig`, and the three published configurations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

from hemiola.errors import InputError, WeightsError
from hemiola.timebase import Timebase, exact_seconds

NORM_TYPES = ("weight_norm", "time_group_norm")
PAD_MODES = ("reflect", "constant")


@dataclass(frozen=True)
class EncodecConfig:
    """The fields of Hugging Face's `config.json` by their own names; the defaults are theirs, the 24 kHz codec."""

    target_bandwidths: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0, 24.0)  # kbps
    sampling_rate: int = 24000  # Hz
    audio_channels: int = 1
    normalize: bool = False
    chunk_length_s: float | None = None  # seconds
    overlap: float | None = None  # as a part of a chunk
    hidden_size: int = 128
    num_filters: int = 32
    num_residual_layers: int = 1
    upsampling_ratios: tuple[int, ...] = (8, 5, 4, 2)
    norm_type: str = "weight_norm"
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    use_causal_conv: bool = True
    pad_mode: str = "reflect"
    compress: int = 2
    num_lstm_layers: int = 2
    trim_right_ratio: float = 1.0
    codebook_size: int = 1024
    codebook_dim: int | None = None  # None: as wide as the latents
    use_conv_shortcut: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "target_bandwidths", tuple(self.target_bandwidths))
        object.__setattr__(self, "upsampling_ratios", tuple(self.upsampling_ratios))
        _check_types(self)
        _check_support(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncodecConfig:
        """Read a `config.json`; keys that say nothing about the network are passed over.

        Raises WeightsError for another kind of model, or for a setting that this codec does not do.
        """
        kind = values.get("model_type", "encodec")
        if kind != "encodec":
            raise WeightsError(f"the config is of a '{kind}' model, not of an EnCodec: choose another checkpoint")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def to_dict(self) -> dict[str, Any]:
        """The content of a `config.json` that transformers' EncodecModel reads too."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {
            "model_type": "encodec",
            "architectures": ["EncodecModel"],
            **values,
            "codebook_dim": self.hidden_size,
        }

    @property
    def timebase(self) -> Timebase:
        """The codec's clock."""
        return Timebase(self.sampling_rate, math.prod(self.upsampling_ratios))

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second, exact."""
        return self.timebase.frame_rate

    @property
    def channels(self) -> int:
        """Channels of the audio: 1 or 2."""
        return self.audio_channels

    @property
    def chunk_length(self) -> int | None:
        """Samples in a chunk, or None when the whole is coded at once."""
        return None if self.chunk_length_s is None else self.timebase.samples(self.chunk_length_s)

    @property
    def chunk_stride(self) -> int | None:
        """Samples from the start of a chunk to the start of the next, or None when there are no chunks."""
        if self.chunk_length is None:
            return None
        # The overlap is read as it prints, like seconds are: 1 % of 48000 is 480 and not a float beside it.
        return max(1, math.floor((1 - exact_seconds(self.overlap or 0)) * self.chunk_length))

    @property
    def codebooks(self) -> int:
        """How many codebooks the checkpoint holds: what the highest bandwidth needs."""
        return self._codebooks_at(self.target_bandwidths[-1])

    def codebooks_for(self, bandwidth_kbps: float | None = None) -> int:
        """Codebooks that a bandwidth pays for; None is all there are. Raises InputError for one not on the list."""
        if bandwidth_kbps is None:
            return self.codebooks
        if bandwidth_kbps not in self.target_bandwidths:
            allowed = ", ".join(f"{each:g}" for each in self.target_bandwidths)
            raise InputError(f"this codec has no bandwidth of {bandwidth_kbps} kbps: choose one of {allowed}")
        return self._codebooks_at(bandwidth_kbps)

    def kbps_of(self, codebooks: int) -> Fraction:
        """What the codes of so many codebooks take, in kbit a second."""
        return self.frame_rate * codebooks * (self.codebook_size.bit_length() - 1) / 1000

    def _codebooks_at(self, bandwidth_kbps: float) -> int:
        # Whole frames a second, rounded up as in transformers: the count of codebooks has to match the checkpoint.
        bits_per_second = math.ceil(self.frame_rate) * (self.codebook_size.bit_length() - 1)
        return max(1, math.floor(Fraction(str(bandwidth_kbps)) * 1000 / bits_per_second))


def _check_types(config: EncodecConfig) -> None:
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type == "int" and not _is_count(value):
            raise WeightsError(f"config: {field.name} must be a positive whole number, not {value!r}")
        if field.type == "bool" and not isinstance(value, bool):
            raise WeightsError(f"config: {field.name} must be true or false, not {value!r}")
        optional = field.type == "float | None"
        if (optional or field.type == "float") and not (_is_number(value) or (optional and value is None)):
            raise WeightsError(f"config: {field.name} must be a number, not {value!r}")
    if not config.upsampling_ratios or not all(map(_is_count, config.upsampling_ratios)):
        raise WeightsError(f"config: upsampling_ratios must be positive whole numbers, not {config.upsampling_ratios}")
    bandwidths = config.target_bandwidths
    if not bandwidths or not all(_is_number(each) and each > 0 for each in bandwidths):
        raise WeightsError(f"config: target_bandwidths must be positive numbers, not {bandwidths}")
    if list(bandwidths) != sorted(bandwidths):
        raise WeightsError(f"config: target_bandwidths must rise, and {bandwidths} do not")


def _check_support(config: EncodecConfig) -> None:
    def refuse(name: str, supported: str) -> None:
        raise WeightsError(f"config: {name} = {getattr(config, name)!r} is not supported: it must be {supported}")

    if config.norm_type not in NORM_TYPES:
        refuse("norm_type", " or ".join(NORM_TYPES))
    if config.pad_mode not in PAD_MODES:
        refuse("pad_mode", " or ".join(PAD_MODES))
    if config.audio_channels > 2:
        refuse("audio_channels", "1 or 2")
    if config.codebook_size & (config.codebook_size - 1) or config.codebook_size < 2:
        refuse("codebook_size", "a power of 2")
    if config.codebook_dim not in (None, config.hidden_size):
        refuse("codebook_dim", f"hidden_size ({config.hidden_size})")
    if not 0 <= config.trim_right_ratio <= 1 or (config.trim_right_ratio != 1 and not config.use_causal_conv):
        refuse("trim_right_ratio", "1, or with causal convolutions from 0 to 1")
    if config.compress > config.num_filters:
        refuse("compress", f"at most num_filters ({config.num_filters})")
    if config.chunk_length_s is not None and config.chunk_length_s <= 0:
        refuse("chunk_length_s", "more than 0")
    if config.overlap is not None and not 0 <= config.overlap < 1:
        refuse("overlap", "from 0 up to, not including, 1")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


ENCODEC_24KHZ = EncodecConfig()
ENCODEC_32KHZ = EncodecConfig(
    target_bandwidths=(2.2,),
    sampling_rate=32000,
    num_filters=64,
    upsampling_ratios=(8, 5, 4, 4),
    use_causal_conv=False,
    use_conv_shortcut=False,
    codebook_size=2048,
)
ENCODEC_48KHZ = EncodecConfig(
    target_bandwidths=(3.0, 6.0, 12.0, 24.0),
    sampling_rate=48000,
    audio_channels=2,
    normalize=True,
    chunk_length_s=1.0,
    overlap=0.01,
    norm_type="time_group_norm",
    use_causal_conv=False,
)
