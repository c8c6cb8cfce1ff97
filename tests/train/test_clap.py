"""CLAP: distances against scipy, scores by hand, and a tiny random CLAP of transformers from a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from hemiola.cli import main
from hemiola.errors import WeightsError
from hemiola.train import clap

RATE = 32000


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 30), st.integers(2, 6))
def test_the_frechet_distance_is_scipys(seed: int, pieces: int, width: int) -> None:
    rng = np.random.Generator(np.random.PCG64(seed))
    one = rng.standard_normal((pieces, width)) @ rng.standard_normal((width, width))
    other = rng.standard_normal((pieces + 3, width)) + rng.standard_normal(width)
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    expected = np.sum((one.mean(0) - other.mean(0)) ** 2)
    expected += np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    assert clap.frechet_distance(one, other) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert clap.frechet_distance(one, one) == pytest.approx(0, abs=1e-6)


def test_scores_by_hand() -> None:
    text = np.eye(3)
    music = np.array([[0.6, 0.8, 0], [0, 1, 0], [0.8, 0, 0.6]])
    values = clap.scores(text, music, text)
    assert values["clap_score"] == pytest.approx((0.6 + 1 + 0.6) / 3)
    assert values["clap_score_by_chance"] == pytest.approx((0.8 + 0.8) / 6)
    assert values["clap_score_of_true_music"] == 1
    assert clap.scores(text[:1], music[:1], text[:1])["fad"] is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLAP of the right shape with random weights, saved as the published ones are."""
    torch.manual_seed(0)
    text = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 16, "projection_dim": 12, "max_position_embeddings": 256}
    audio = {"patch_embeds_hidden_size": 8, "hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2]}
    audio |= {"num_hidden_layers": 2, "projection_dim": 12}
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=12)
    folder = tmp_path_factory.mktemp("clap")
    transformers.ClapModel(config).save_pretrained(folder)
    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefghijklmnopqrstuvwxyzĠ"]
    tokenizer = transformers.RobertaTokenizerFast(vocab={each: i for i, each in enumerate(letters)}, merges=[])
    extractor = transformers.ClapFeatureExtractor(truncation="rand_trunc")
    transformers.ClapProcessor(extractor, tokenizer).save_pretrained(folder)
    return folder


def test_a_clap_of_a_folder_embeds_as_transformers_does(folder: Path) -> None:
    judge = clap.Clap.from_pretrained(str(folder))
    rng = np.random.Generator(np.random.PCG64(0))
    pieces = [rng.standard_normal((1, RATE), dtype=np.float32), rng.standard_normal((2, 12 * RATE), dtype=np.float32)]
    audio = judge.of_audio(pieces, RATE)
    text = judge.of_text(["slow piano", "a fast organ tune"])
    assert audio.shape == text.shape == (2, 12)
    np.testing.assert_allclose(np.linalg.norm([*audio, *text], axis=1), 1)
    # Nothing is drawn at random where a piece is longer than the model's window.
    np.testing.assert_array_equal(judge.of_audio(pieces, RATE), audio)
    np.testing.assert_allclose(judge.of_audio(pieces[:1], RATE), audio[:1], atol=1e-6)
    inputs = judge.processor.tokenizer(["slow piano"], return_tensors="pt")
    with torch.inference_mode():
        states = judge.model.text_model(**inputs).pooler_output
        expected = judge.model.text_projection(states)[0].double().numpy()
    np.testing.assert_allclose(text[0], expected / np.linalg.norm(expected), atol=1e-6)


def test_the_command_tells_scores_by_a_clap(
    tiny: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    place = tmp_path / "report.json"
    asked = ["eval", "--model", str(tiny), "--captions", "3", "--pieces", "0", "--seconds", "1", "-o", str(place)]
    with pytest.raises(SystemExit) as exit_:
        main([*asked, "--clap", str(folder)])
    assert not exit_.value.code
    assert "CLAP score" in capsys.readouterr().err
    values = json.loads(place.read_text("utf-8"))["clap"]
    assert -1 <= values["clap_score"] <= 1 and values["fad"] > 0


def test_a_clap_that_cannot_be_had_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="no CLAP model") as caught:
        clap.Clap.from_pretrained(str(tmp_path / "nothing"))
    assert "\n" not in str(caught.value)
