"""Blend trainings that are refused, by the name of what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hemiola.errors import InputError, WeightsError
from hemiola.train.blend import BlendRecipe
from hemiola.train.blend_losses import BLEND_LOSSES
from hemiola.train.blend_runs import assemble

Make = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"losses": {"loudness": 1.0}}, "unknown loss loudness: known are rms_input"),
        ({"losses": {"mel": -1.0}}, r"recipe\.losses\.mel must be at least 0, not -1"),
        ({"losses": {"mel": float("nan")}}, r"recipe\.losses\.mel must be"),
        ({"losses": dict.fromkeys(BLEND_LOSSES, 0.0)}, "every weight is 0"),
        ({"reference": "middle"}, "must be one of window, center, not 'middle'"),
        ({"decode_seconds": 0.1}, r"decode_seconds must be at least 0\.25, not 0\.1"),
        ({"decode_seconds": float("nan")}, "decode_seconds must be"),
        ({"learning_rate": 0.0}, r"recipe\.learning_rate must be more than 0"),
        ({"selector_learning_rate": float("inf")}, r"recipe\.selector_learning_rate must be"),
        ({"gradient_clip": -1.0}, r"recipe\.gradient_clip must be"),
        ({"weight_decay": -0.1}, r"recipe\.weight_decay must be at least 0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        BlendRecipe(**values)


@pytest.mark.parametrize(
    ("section", "changed", "said"),
    [
        ("recipe", {"losses": {"mle": 1.0}}, "unknown loss mle"),
        ("recipe", {"speed": 1}, r"unknown key recipe\.speed"),
        ("recipe", {"losses": {"mel": "much"}}, r"recipe\.losses\.mel must be a number"),
        ("data", {"pairing": "within"}, r"unknown key data\.pairing"),
        ("data", {"mode": "unison"}, "pairs, unity, shuffle_targets"),
        ("data", {"folder": "nowhere"}, "nowhere is not a finished dataset of pairs"),
        ("model", {"frames": 3}, r"unknown key model\.frames"),
        ("model", {"size": "huge"}, "size must be one of tiny, small, base"),
        ("model", {"output_frames": 400}, "do not fit into a clip of 240 frames"),
        ("run", {"accumulate": 2}, r"run\.accumulate must be 1 for a blend"),
        ("text", {"words": 3}, "unknown section text"),
    ],
)
def test_a_config_that_cannot_be_is_refused(
    blend_config: Make, section: str, changed: dict[str, Any], said: str
) -> None:
    config = blend_config()
    config[section] = {**config.get(section, {}), **changed}
    with pytest.raises((InputError, WeightsError), match=said):
        assemble(config)
