"""A blend's config: what it says comes back, and what cannot be is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from hemiola.blend.config import SIZES, BlendConfig
from hemiola.blend.lattice import Lattice
from hemiola.errors import WeightsError


def test_the_default_hears_24_seconds_and_composes_three_passages() -> None:
    config = BlendConfig()
    assert (config.clip_frames, config.output_frames, config.pairs, config.latent_dim) == (1800, 800, 3, 128)
    # Of the published codec's clock: 320 samples a frame.
    assert (config.clip_frames * 320, config.output_frames * 320) == (576_000, 256_000)
    base = SIZES["base"]
    assert (6 * base.channels, base.width, base.layers, base.heads, base.ffn) == (384, 512, 4, 8, 2048)
    assert list(SIZES) == ["tiny", "small", "base"]


def test_a_config_comes_back_from_its_json() -> None:
    config = BlendConfig(codec="sketch-24khz", size="small", pairs=2, ratio_limit=1.25)
    values = config.to_dict()
    assert values["model_type"] == "hemiola_blend"
    assert BlendConfig.from_dict(values) == config


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model_type": "encodec"}, "of a 'encodec' model, not of a blend"),
        ({"frames": 3}, "unknown key frames"),
        ({"pairs": 0}, "pairs must be a positive whole number, not 0"),
        ({"pairs": True}, "pairs must be a positive whole number"),
        ({"clip_frames": 1800.0}, "clip_frames must be a positive whole number"),
        ({"size": "huge"}, "size must be one of tiny, small, base, not 'huge'"),
        ({"selector": "random"}, "selector must be one of correlation, pooled"),
        ({"ratio_limit": 1.0}, "ratio_limit must be more than 1"),
        ({"ratio_limit": float("nan")}, "ratio_limit must be more than 1"),
        ({"ratio_limit": 2.0, "clip_frames": 1599}, "800 frames read 2 times faster do not fit"),
    ],
)
def test_what_cannot_be_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        BlendConfig.from_dict({**BlendConfig().to_dict(), **changed})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"output_frames": 7}, "output_frames must be at least 8, not 7"),
        ({}, "3 windows of 800 frames cannot lie 48 frames apart in a clip of 900"),
    ],
)
def test_windows_need_room(changed: dict[str, Any], said: str) -> None:
    Lattice(BlendConfig(clip_frames=1100, ratio_limit=1.1))
    with pytest.raises(WeightsError, match=said):
        Lattice(BlendConfig(**{"clip_frames": 900, "ratio_limit": 1.1, **changed}))
