"""What a blend checkpoint says about itself: `BlendConfig`, and the sizes that a model comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hemiola.errors import WeightsError

SELECTORS = ("correlation", "pooled")


@dataclass(frozen=True)
class Size:
    """How wide and deep the composer is; `channels` are those of each of the six extracted components."""

    channels: int
    width: int
    layers: int
    heads: int
    ffn: int


SIZES = {
    "tiny": Size(channels=16, width=64, layers=2, heads=4, ffn=128),
    "small": Size(channels=32, width=256, layers=3, heads=8, ffn=1024),
    "base": Size(channels=64, width=512, layers=4, heads=8, ffn=2048),
}


@dataclass(frozen=True)
class BlendConfig:
    """The fields of a blend's `config.json`. Frames are those of the codec: 75 a second at 24 kHz.

    Attributes:
        codec: name or folder of the codec whose latents are blended.
        codec_weights: the fingerprint of that codec's weights; empty where it is not known.
        latent_dim: values in a latent frame.
        clip_frames: frames of each recording that the model hears: 24 s.
        output_frames: frames of each passage that it composes: 10.667 s.
        pairs: passages a pair of recordings, each from two windows of its own.
        ratio_limit: windows are read at most so many times faster or slower than they were played.
        size: "tiny", "small" or "base".
        selector: "correlation", or "pooled": that of an earlier system, for comparison.
        embedding_dim: values in which the selector compares moments.
    """

    codec: str = "facebook/encodec_24khz"
    codec_weights: str = ""
    latent_dim: int = 128
    clip_frames: int = 1800
    output_frames: int = 800
    pairs: int = 3
    ratio_limit: float = 1.5
    size: str = "base"
    selector: str = "correlation"
    embedding_dim: int = 64

    def __post_init__(self) -> None:
        for name in ("latent_dim", "clip_frames", "output_frames", "pairs", "embedding_dim"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise WeightsError(f"config: {name} must be a positive whole number, not {value!r}")
        if self.size not in SIZES:
            raise WeightsError(f"config: size must be one of {', '.join(SIZES)}, not {self.size!r}")
        if self.selector not in SELECTORS:
            raise WeightsError(f"config: selector must be one of {', '.join(SELECTORS)}, not {self.selector!r}")
        if not 1 < self.ratio_limit <= 2:
            raise WeightsError(f"config: ratio_limit must be more than 1 and at most 2, not {self.ratio_limit!r}")
        # With a frame to spare, so that even the fastest window has a start to choose.
        if (self.output_frames - 1) * self.ratio_limit > self.clip_frames - 2:
            raise WeightsError(
                f"config: {self.output_frames} frames read {self.ratio_limit:g} times faster do not fit into a clip of "
                f"{self.clip_frames} frames"
            )

    @property
    def dimensions(self) -> Size:
        """The numbers behind the size's name."""
        return SIZES[self.size]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BlendConfig:
        """Read a `config.json`; raises WeightsError for another kind of model or an unknown key."""
        kind = values.get("model_type")
        if kind != "hemiola_blend":
            raise WeightsError(f"the config is of a '{kind}' model, not of a blend: choose another checkpoint")
        given = {name: value for name, value in values.items() if name != "model_type"}
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise WeightsError(f"config: unknown key {unknown[0]}: it was written by another version of hemiola")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """The content of a `config.json`."""
        return {"model_type": "hemiola_blend", **asdict(self)}
