"""audiocraft's layout: the same tokens and sound as from Hugging Face's, on both backends; converted, and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import audiocraft_writer
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from hemiola import Audio, EncodecModel, MusicGen, Request
from hemiola.errors import HemiolaError, OutputError, WeightsError
from hemiola.musicgen import folder as folders

KINDS = ("mono", "stereo", "melody", "stereo-melody")


def loaded(folder: Path, backend: str = "torch", **how: Any) -> MusicGen:
    return MusicGen.from_pretrained(folder, backend=backend, device="cpu", **how)


def made(music: MusicGen) -> list[Any]:
    tune = Audio(np.sin(np.arange(40000) / 20).astype(np.float32), 32000)
    melody = tune if music.model.config.decoder.melody else None
    return music.generate([Request("slow piano", "0.7", 1, melody=melody), Request(None, "0.4", 2, temperature=0)])


def same(one: list[Any], other: list[Any], atol: float = 1e-6) -> bool:
    for result, again in zip(one, other, strict=True):
        assert np.array_equal(result.codes, again.codes)
        np.testing.assert_allclose(result.audio.samples, again.audio.samples, atol=atol)
    return True


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tokens_from_either_layout(family: dict[str, Path], tmp_path: Path, kind: str, backend: str) -> None:
    # The stereo melody model of the tests has rows for 12.8 s; its settings say so.
    config = json.loads((family[kind] / "config.json").read_text())
    seconds = (config.get("chroma_length", 235) - 1) * 4096 / config["audio_encoder"]["sampling_rate"]
    changes = {} if config.get("chroma_length", 235) == 235 else {"dataset": {"segment_duration": seconds}}
    theirs = audiocraft_writer.write(family[kind], tmp_path / "theirs", names_codec=kind == "mono", **changes)
    wanted, found = loaded(family[kind], backend), loaded(theirs, backend, allow_pickle=True)
    # How weights were drawn before training is in no package.
    decoder = replace(found.model.config.decoder, initializer_factor=wanted.model.config.decoder.initializer_factor)
    assert decoder == wanted.model.config.decoder
    assert found.model.config.codec.timebase == wanted.model.config.codec.timebase
    assert same(made(wanted), made(found))
    assert len(np.unique(made(wanted)[0].codes)) > 4, "a decoder stuck on one token would prove little"


def test_a_text_encoder_that_was_trained_along_is_taken(family: dict[str, Path], tmp_path: Path) -> None:
    theirs = audiocraft_writer.write(family["mono"], tmp_path / "theirs")
    package = torch.load(theirs / "state_dict.bin", weights_only=True)
    tensors = load_file(family["mono"] / "model.safetensors")
    text = {name: each for name, each in tensors.items() if name.startswith("text_encoder.")}
    stem = "condition_provider.conditioners.description.t5."
    package["best_state"] |= {stem + name.removeprefix("text_encoder."): -each for name, each in text.items()}
    torch.save(package, theirs / "state_dict.bin")
    model = loaded(theirs, allow_pickle=True).model
    states = model._engine.states([3, 4, 1])
    plain = loaded(family["mono"]).model._engine.states([3, 4, 1])
    assert not torch.allclose(states, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_converted_loads_here_and_in_transformers(family: dict[str, Path], tmp_path: Path, kind: str) -> None:
    config = json.loads((family[kind] / "config.json").read_text())
    rows, rate = config.get("chroma_length", 235), config["audio_encoder"]["sampling_rate"]
    changes = {} if rows == 235 else {"dataset": {"segment_duration": (rows - 1) * 4096 / rate}}
    theirs = audiocraft_writer.write(family[kind], tmp_path / "theirs", **changes)
    for dtype, backend in (("float32", "torch"), ("bfloat16", "mlx"), ("float16", "torch")):
        target = tmp_path / f"{kind}-{dtype}"
        folders.convert(theirs, target, dtype=dtype, backend=backend, allow_pickle=True)
        tensors = load_file(target / "model.safetensors")
        assert {each.dtype for each in tensors.values()} == {getattr(torch, dtype)}
        names = ("MusicgenForConditionalGeneration", "MusicgenMelodyForConditionalGeneration")
        load = getattr(transformers, names["melody" in kind]).from_pretrained
        reference, report = load(target, dtype=torch.float32, output_loading_info=True)
        assert not any(report.values()), report
        assert reference.config.decoder.num_codebooks == config["decoder"]["num_codebooks"]
        original = load_file(family[kind] / "model.safetensors")
        head = reference.state_dict()["decoder.lm_heads.2.weight"]
        torch.testing.assert_close(head, original["decoder.lm_heads.2.weight"], atol=0, rtol=1e-2)
        if dtype == "float32":
            assert same(made(loaded(family[kind])), made(loaded(target)))


def test_the_codec_in_it_needs_no_text_encoder(family: dict[str, Path], tmp_path: Path) -> None:
    theirs = audiocraft_writer.write(family["mono"], tmp_path / "theirs")
    shutil.rmtree(theirs / "t5-tiny")
    noise = np.random.default_rng(1).normal(size=(1, 3000)).astype(np.float32)
    for backend in ("torch", "mlx"):
        wanted, found = (
            EncodecModel.from_pretrained(folder, backend=backend, device="cpu", allow_pickle=True)
            for folder in (family["mono"], theirs)
        )
        assert np.array_equal(found.encode(noise).chunks[0], wanted.encode(noise).chunks[0])


def test_a_codec_alone_is_converted(tmp_path: Path) -> None:
    config = transformers.EncodecConfig(num_filters=2, hidden_size=8, num_lstm_layers=1, codebook_size=16)
    transformers.EncodecModel(config).save_pretrained(tmp_path / "codec")
    folders.convert(tmp_path / "codec", tmp_path / "half", dtype="float16")
    reference, report = transformers.EncodecModel.from_pretrained(tmp_path / "half", output_loading_info=True)
    assert not any(report.values()), report
    assert reference.config.num_filters == 2


def test_a_target_that_is_there_is_left_alone(family: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="there exists: name a new folder"):
        folders.convert(family["mono"], tmp_path / "there", dtype="float32")
    with pytest.raises(OutputError, match="create it first"):
        folders.convert(family["mono"], tmp_path / "no" / "where", dtype="float32")
    with pytest.raises(HemiolaError, match="unknown dtype 'int8'"):
        folders.convert(family["mono"], tmp_path / "new", dtype="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_pickles_need_a_word(family: dict[str, Path], tmp_path: Path) -> None:
    theirs = audiocraft_writer.write(family["mono"], tmp_path / "theirs")
    with pytest.raises(WeightsError, match=r"audiocraft's layout, which is pickles: pass --allow-pickle"):
        loaded(theirs)


class Surprise:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path("surprise").touch, ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"xp.cfg": Surprise(), "best_state": {}}, "holds more than tensors"),
        ({"xp.cfg": {"a": 1}, "best_state": {}}, "not as audiocraft exports it"),
        ({"best_state": {}}, "not as audiocraft exports it"),
        ({"xp.cfg": "a: [", "best_state": {}}, "not YAML"),
        ({"xp.cfg": "a: 1", "best_state": {}}, "holds no MusicGen"),
        ([1, 2], "damaged"),
    ],
)
def test_a_package_that_is_none_is_named(
    family: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = audiocraft_writer.write(family["mono"], tmp_path / "theirs")
    torch.save(content, theirs / "state_dict.bin")
    with pytest.raises(WeightsError, match=message) as caught:
        loaded(theirs, allow_pickle=True)
    assert "state_dict.bin" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "surprise").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebooks_pattern": {"modeling": "parallel"}}, "codebooks_pattern.modeling 'parallel' is not supported"),
        ({"codebooks_pattern": {"delay": {"delays": [0, 0, 0, 0]}}}, "only \\[0, 1, 2, 3\\]"),
        ({"codebooks_pattern": {"modeling": None}, "transformer_lm": {"q_modeling": "unroll"}}, "'unroll' is not supp"),
        ({"lm_model": "transformer_lm_magnet"}, "lm_model 'transformer_lm_magnet' is not supported"),
        ({"transformer_lm": {"num_heads": "${a}"}, "a": "${a}"}, "refers to itself"),
        ({"transformer_lm": {"num_heads": "many"}}, "not a number"),
        ({"conditioners": {"description": {"model": "clap"}}}, "only 't5'"),
    ],
)
def test_a_model_of_another_kind_is_named(
    family: dict[str, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    theirs = audiocraft_writer.write(family["mono"], tmp_path / "theirs", **changes)
    with pytest.raises(WeightsError, match=message):
        loaded(theirs, allow_pickle=True)


def test_weights_that_are_missing_are_named(family: dict[str, Path], tmp_path: Path) -> None:
    theirs = audiocraft_writer.write(family["mono"], tmp_path / "theirs")
    package = torch.load(theirs / "state_dict.bin", weights_only=True)
    del package["best_state"]["transformer.layers.0.linear2.weight"]
    torch.save(package, theirs / "state_dict.bin")
    with pytest.raises(WeightsError, match=r"missing: model\.decoder\.layers\.0\.fc2\.weight"):
        loaded(theirs, allow_pickle=True)
