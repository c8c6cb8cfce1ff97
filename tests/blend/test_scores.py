"""Copy scores of noises that were copied, mixed, moved and disturbed; diversity of windows counted moment by moment."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import pearsonr

from hemiola.audio.overview import glance
from hemiola.blend import scores

RATE = 4000


def music(seed: int, length: int = 12_000) -> np.ndarray:
    """Tones that come and go, each with its own loudness [1, length]."""
    rng = np.random.default_rng(seed)
    times = np.arange(length) / RATE
    starts = np.arange(0, length, 1500)
    sound = np.zeros(length)
    for start in starts:
        for hz in 60 * 2 ** rng.uniform(0, 4.5, 3):
            sound[start:] += (
                rng.uniform(0.1, 1)
                * np.sin(2 * np.pi * hz * times[: length - start])
                * np.exp(-times[: length - start] * 6)
            )
    return sound[None].astype(np.float32)


def score(output: np.ndarray, source: np.ndarray) -> float:
    return scores.copy_score(glance(output.astype(np.float32), RATE), glance(source, RATE))


def disturbed(sound: np.ndarray, db: float) -> np.ndarray:
    return sound + sound.std() * 10 ** (-db / 20) * np.random.default_rng(9).standard_normal(sound.shape)


def test_a_copy_is_known_for_one() -> None:
    source, other = music(1), music(2)
    assert score(source, source) == pytest.approx(1)
    assert score(0.01 * source, source) == pytest.approx(1, abs=1e-6)
    assert score(-source, source) == pytest.approx(1, abs=1e-6)
    assert score(disturbed(source, 20), source) > scores.COPIES
    assert score(source + 0.1 * other, source) > scores.COPIES


def test_what_is_no_copy_is_not() -> None:
    source, other = music(1), music(2)
    assert abs(score(other, source)) < 0.4
    assert abs(score(disturbed(0 * source + 1, 0) - 1, source)) < 0.2
    assert 0.4 < score(source + other, source) < scores.COPIES
    # The same music an onset later is other music at that moment.
    assert score(np.roll(source, 1500 // 2, axis=1), source) < 0.5


def test_silence_copies_nothing() -> None:
    silence = np.zeros((1, 12_000), np.float32)
    assert score(silence, silence) == score(music(1), silence) == score(silence, music(1)) == 0


def test_the_score_is_pearsons() -> None:
    """Of levels within 30 dB of the loudest, each band less its mean, by scipy."""
    sounds = [glance(music(seed) + 0.5 * music(3), RATE) for seed in (1, 2)]
    levels = [np.log10(each.mel.astype(float) / each.mel.max() + 1e-3) for each in sounds]
    flat = [(each - each.mean(1, keepdims=True)).ravel() for each in levels]
    assert scores.copy_score(*sounds) == pytest.approx(pearsonr(*flat).statistic, rel=1e-6)


def test_two_clocks_are_refused() -> None:
    first = glance(music(1), RATE)
    for other in (glance(music(1), 8000), glance(music(1)[:, :-1], RATE)):
        with pytest.raises(ValueError, match="one clock"):
            scores.copy_score(first, other)


@pytest.mark.parametrize(
    ("found", "name"),
    [((0.9, 0.1), "input"), ((0.89, 0.3), ""), ((0.2, 0.95), "target"), ((0.92, 0.95), "target"), ((-1.0, -1.0), "")],
)
def test_which_source_is_copied(found: tuple[float, float], name: str) -> None:
    assert scores.copied(dict(zip(("input", "target"), found))) == name


def test_diversity_by_hand() -> None:
    assert scores.window_diversity(np.zeros(3), np.full(3, 10)) == 0
    assert scores.window_diversity(np.array([0, 10, 20]), np.array([10, 20, 30])) == 1
    assert scores.window_diversity(np.array([4.0]), np.array([5.0])) == 1
    # [0, 10] and [5, 20]: 5 of 20 are shared; [0, 10] and [12, 14]: none; [5, 20] and [12, 14]: 2 of 15.
    expected = 1 - (5 / 20 + 0 + 2 / 15) / 3
    assert scores.window_diversity(np.array([0, 5, 12]), np.array([10, 20, 14])) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), min_size=2, max_size=4))
def test_diversity_is_that_of_moments_counted(windows: list[tuple[int, int]]) -> None:
    moments = [set(range(start, start + length)) for start, length in windows]
    shares = [
        len(a & b) / len(range(min(a | b), max(a | b) + 1)) for i, a in enumerate(moments) for b in moments[i + 1 :]
    ]
    starts, lengths = np.array(windows).T
    assert scores.window_diversity(starts, starts + lengths) == pytest.approx(1 - np.mean(shares))


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=4), st.integers(1, 30))
def test_diversity_does_not_depend_on_the_place(starts: list[int], length: int) -> None:
    assume(len(set(starts)) > 1)
    places = np.array(starts)
    found = scores.window_diversity(places, places + length)
    assert 0 < found <= 1
    assert scores.window_diversity(3.5 + 2 * places, 3.5 + 2 * (places + length)) == pytest.approx(found)


def test_components_have_names() -> None:
    weights = np.tile(np.arange(6) / 15, (10, 1)).T
    means = scores.component_means(weights)
    assert list(means) == list(scores.COMPONENTS)
    assert means["input_rhythm"] == 0
    assert means["target_timbre"] == pytest.approx(1 / 3)
    assert math.isclose(sum(means.values()), 1)
