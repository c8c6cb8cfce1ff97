"""Run configs: what is read, what is overridden, and what is refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hemiola.blend.config import BlendConfig
from hemiola.codec.config import EncodecConfig
from hemiola.errors import InputError
from hemiola.musicgen.config import DecoderConfig
from hemiola.musicgen.sampling import Sampling
from hemiola.train import config as configs
from hemiola.train.blend import BlendRecipe
from hemiola.train.blend_losses import DEFAULT_WEIGHTS
from hemiola.train.blend_runs import PairData
from hemiola.train.codec import CodecRecipe
from hemiola.train.fit import Run
from hemiola.train.musicgen import MusicgenRecipe
from hemiola.train.planted import Planted
from hemiola.train.runs import Data, Text, TrainedCodec, TrainedModel

CONFIGS = Path(__file__).parents[2] / "configs"


@dataclass(frozen=True)
class Oven:
    heat: float
    loaves: int = 1
    fan: bool = False
    label: str = "oven"
    timer: float | None = None
    shelves: tuple[int, ...] = (1, 2)
    shares: Mapping[str, float] | None = None


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, "utf-8")
    return path


def test_overrides_reach_any_depth(tmp_path: Path) -> None:
    path = write(tmp_path, "run: {steps: 5}\ndata: {synthetic: }\n")
    read = configs.read(path, ["run.steps=7", "data.synthetic.pieces=3", "model.ratios=[4, 2]", "run.folder=a=b"])
    assert read == {
        "run": {"steps": 7, "folder": "a=b"},
        "data": {"synthetic": {"pieces": 3}},
        "model": {"ratios": [4, 2]},
    }


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("run.steps", "section.key=value"),
        ("steps=3", "section.key=value"),
        ("run.steps.more=3", "steps is not a section"),
        ("run.steps=[1", "not valid YAML"),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        configs.read(write(tmp_path, "run: {steps: 5}"), [override])
    assert override in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"), [("run: [", "not valid YAML"), ("", "holds no config"), ("- 1", "no config")]
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        configs.read(write(tmp_path, text))
    assert "run.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the config .*none\.yaml: No such file"):
        configs.read(tmp_path / "none.yaml")


def test_values_become_what_the_field_is(tmp_path: Path) -> None:
    text = "oven: {heat: 1e-4, timer: 2, shelves: [3, 4], shares: {rye: 1e-3, oats: 2}}"
    oven = configs.build(Oven, configs.read(write(tmp_path, text))["oven"], "oven")
    assert oven == Oven(heat=0.0001, timer=2.0, shelves=(3, 4), shares={"rye": 0.001, "oats": 2.0})
    assert isinstance(oven.timer, float)
    assert configs.build(Oven, {"heat": 3, "timer": None}, "oven") == Oven(heat=3.0)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"heat": 1, "het": 2}, r"unknown key oven\.het: known are heat, loaves"),
        ({}, r"missing key oven\.heat"),
        (None, r"missing key oven\.heat"),
        (3, "oven must be a section"),
        ({"heat": "hot"}, r"oven\.heat must be a number, not 'hot'"),
        ({"heat": True}, r"oven\.heat must be a number"),
        ({"heat": None}, r"oven\.heat must be a number"),
        ({"heat": 1, "loaves": 1.5}, r"oven\.loaves must be a whole number"),
        ({"heat": 1, "loaves": True}, r"oven\.loaves must be a whole number"),
        ({"heat": 1, "fan": 1}, r"oven\.fan must be true or false"),
        ({"heat": 1, "label": 7}, r"oven\.label must be text"),
        ({"heat": 1, "timer": "soon"}, r"oven\.timer must be a number"),
        ({"heat": 1, "shelves": 3}, r"oven\.shelves must be a list"),
        ({"heat": 1, "shelves": [1, "two"]}, r"oven\.shelves must be a whole number, not 'two'"),
        ({"heat": 1, "shares": {"rye": "much"}}, r"oven\.shares\.rye must be a number"),
    ],
)
def test_a_bad_value_is_named(values: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        configs.build(Oven, values, "oven")


def test_unknown_sections_are_refused() -> None:
    assert configs.sections({"run": {"steps": 1}}, "run", "data") == [{"steps": 1}, {}]
    with pytest.raises(InputError, match="unknown section runn: known are run, data"):
        configs.sections({"runn": {}}, "run", "data")
    with pytest.raises(InputError, match="run must be a section"):
        configs.sections({"run": 3}, "run")


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"run\.steps must be at least 1"):
        Run(folder="a", steps=0, batch=1)
    with pytest.raises(InputError, match="unknown loss mal: known are waveform, mel"):
        CodecRecipe(losses={"mal": 1.0})


KINDS = {"run": Run, "data": Data, "text": Text, "start": TrainedModel, "generation": Sampling}
MODELS = {
    "codec": {"codec": TrainedCodec, "model": EncodecConfig, "recipe": CodecRecipe},
    "musicgen": {"codec": TrainedCodec, "model": DecoderConfig, "recipe": MusicgenRecipe},
    "blend": {"codec": TrainedCodec, "data": PairData, "model": BlendConfig, "recipe": BlendRecipe},
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_configs_can_be_built(path: Path) -> None:
    kinds = KINDS | next(found for kind, found in MODELS.items() if kind in path.stem)
    for name, values in configs.read(path).items():
        built = configs.build(kinds[name], values, name)
        for key, value in values.items():
            # In numbers nothing is lost on the way from the file to the field.
            assert getattr(built, key) == (tuple(value) if isinstance(value, list) else value)


def _fields(cls: type) -> set[str]:
    return {each.name for each in dataclasses.fields(cls)}


def test_the_blend_configs_say_what_is_done_without_them() -> None:
    # Every key of the recipe and of the model is there to be read, with the value that it has anyway.
    config = configs.read(CONFIGS / "blend.yaml")
    assert config["recipe"]["losses"] == DEFAULT_WEIGHTS
    recipe = configs.build(BlendRecipe, config["recipe"], "recipe")
    assert recipe == BlendRecipe(losses=DEFAULT_WEIGHTS) and set(config["recipe"]) == _fields(BlendRecipe) - {"seed"}
    assert configs.build(BlendConfig, config["model"], "model") == BlendConfig()
    assert set(config["data"]) == _fields(PairData)
    assert set(config["run"]) == _fields(Run) - {"accumulate"}


def test_the_ablation_differs_from_the_planted_test_in_its_selector_alone() -> None:
    ours, pooled = (configs.read(CONFIGS / f"blend-planted{each}.yaml") for each in ("", "-pooled"))
    assert pooled["model"].pop("selector") == "pooled"
    assert pooled["run"].pop("folder") != ours["run"].pop("folder")
    assert pooled == ours
    assert configs.build(Planted, ours["data"]["synthetic"], "data.synthetic").clip_seconds == 24
