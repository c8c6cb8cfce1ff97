"""Sampling: the settings, the uniform numbers, and the pick against distributions worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola.errors import InputError
from hemiola.musicgen.sampling import LARGEST_SEED, Sampling, uniforms
from hemiola.musicgen.sampling_torch import Picker

CPU = torch.device("cpu")
seeds = st.integers(0, LARGEST_SEED)


@settings(deadline=None)
@given(seeds, st.integers(0, 99), st.integers(0, 50), st.integers(1, 9), st.integers(1, 8))
def test_uniforms_depend_on_their_own_key_alone(seed: int, variation: int, start: int, steps: int, books: int) -> None:
    drawn = uniforms(seed, variation, range(start, start + steps), books)
    assert drawn.dtype == np.float32
    assert drawn.shape == (steps, books)
    assert ((drawn > 0) & (drawn <= 1)).all()
    more = uniforms(seed, variation, range(0, start + steps + 5), books + 3)
    assert np.array_equal(drawn, more[start : start + steps, :books])


def test_uniforms_are_uniform_and_independent() -> None:
    drawn = uniforms(1, 0, range(5000), 4)
    assert scipy.stats.kstest(drawn.ravel(), "uniform").pvalue > 1e-3
    others = [drawn[:, 1], drawn[1:, 0], uniforms(2, 0, range(5000), 1)[:, 0], uniforms(1, 1, range(5000), 1)[:, 0]]
    for other in others:
        assert abs(np.corrcoef(drawn[: len(other), 0], other)[0, 1]) < 0.05


def test_uniforms_stay_what_they_are() -> None:
    # The first number that Philox4x64 gives for this key and counter: a seed must mean the same in every release.
    stream = np.random.Generator(np.random.Philox(key=np.array([7, 3], np.uint64), counter=[0, 2, 0, 0]))
    assert uniforms(7, 3, range(1), 3)[0, 2] == pytest.approx(stream.random(), abs=2**-23)


@pytest.mark.parametrize("seed", [-1, LARGEST_SEED + 1, 1.5, True, None])
def test_a_bad_seed_is_named(seed: object) -> None:
    with pytest.raises(InputError, match="seed must be"):
        uniforms(seed, 0, range(1), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", -1), ("top_k", 2.5), ("top_p", 0), ("top_p", 1.1), ("temperature", -0.1), ("temperature", float("nan"))],
)
def test_a_bad_setting_is_named(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        Sampling(**{name: value})  # type: ignore[arg-type]


def kept_tokens(logits: list[float], sampling: Sampling) -> set[int]:
    """All tokens that a fine comb of draws, both ends included, ever picks."""
    draws = torch.linspace(0, 1, 4001)[1:]
    draws[0] = 2.0**-24
    rows = torch.tensor(logits).expand(1, len(draws), -1)
    return set(Picker([sampling], len(logits), CPU)(rows, draws[None])[0].tolist())


LOGITS = [0.1, 2.0, -1.0, 0.5, 1.5, 0.4, -3.0]


@pytest.mark.parametrize(
    ("sampling", "wanted"),
    [
        (Sampling(top_k=None), {0, 1, 2, 3, 4, 5, 6}),
        (Sampling(top_k=0), {0, 1, 2, 3, 4, 5, 6}),
        (Sampling(top_k=99), {0, 1, 2, 3, 4, 5, 6}),
        (Sampling(top_k=1), {1}),
        (Sampling(top_k=2), {1, 4}),
        (Sampling(top_k=3), {1, 3, 4}),
        (Sampling(temperature=0), {1}),
        (Sampling(top_k=None, top_p=1e-9), {1}),
        (Sampling(top_k=None, top_p=1.0), {0, 1, 2, 3, 4, 5, 6}),
    ],
)
def test_only_what_is_kept_is_picked(sampling: Sampling, wanted: set[int]) -> None:
    assert kept_tokens(LOGITS, sampling) == wanted


def test_ties_at_the_kth_value_stay_in() -> None:
    assert kept_tokens([1.0, 3.0, 1.0, 0.0, 1.0], Sampling(top_k=2)) == {0, 1, 2, 4}
    assert kept_tokens([1.0, 3.0, 1.0, 3.0, 1.0], Sampling(top_k=2)) == {1, 3}
    assert kept_tokens([2.0, 2.0, 2.0], Sampling(top_k=1)) == {0, 1, 2}


def test_top_p_keeps_the_token_that_crosses_and_works_on_what_top_k_left() -> None:
    logits = np.log([0.4, 0.3, 0.2, 0.1]).tolist()
    assert kept_tokens(logits, Sampling(top_k=None, top_p=0.39)) == {0}
    assert kept_tokens(logits, Sampling(top_k=None, top_p=0.41)) == {0, 1}
    assert kept_tokens(logits, Sampling(top_k=None, top_p=0.71)) == {0, 1, 2}
    # Of the two that top-k leaves, the first has 4/7 of the weight.
    assert kept_tokens(logits, Sampling(top_k=2, top_p=0.57)) == {0}
    assert kept_tokens(logits, Sampling(top_k=2, top_p=0.58)) == {0, 1}


def test_the_ends_of_the_draw_pick_the_first_and_the_last_kept_token() -> None:
    rows = torch.tensor([[-torch.inf, 0.0, -9.0, 1.0, -torch.inf]]).expand(1, 2, -1)
    picked = Picker([Sampling(top_k=None)], 5, CPU)(rows, torch.tensor([[2.0**-24, 1.0]]))
    assert picked.tolist() == [[1, 3]]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=None),
        Sampling(top_k=6),
        Sampling(top_k=None, temperature=0.5),
        Sampling(top_k=None, temperature=3.0),
        Sampling(top_k=None, top_p=0.8),
    ],
)
def test_picks_follow_the_softmax(sampling: Sampling) -> None:
    logits = np.random.default_rng(3).normal(size=12)
    probabilities = scipy.special.softmax(logits / sampling.temperature)
    order = np.argsort(-probabilities)
    kept = order[: sampling.top_k or 12]
    if sampling.top_p:
        kept = order[: 1 + int(np.searchsorted(np.cumsum(probabilities[order]), sampling.top_p))]
    draws = torch.tensor(uniforms(11, 0, range(40000), 1).T)
    rows = torch.tensor(logits, dtype=torch.float32).expand(1, draws.shape[1], -1)
    counts = np.bincount(Picker([sampling], 12, CPU)(rows, draws)[0].numpy(), minlength=12)
    assert counts.sum() == counts[kept].sum()
    expected = probabilities[kept] / probabilities[kept].sum() * counts.sum()
    assert scipy.stats.chisquare(counts[kept], expected).pvalue > 1e-3


def test_every_row_of_a_batch_has_its_own_settings() -> None:
    every = [
        Sampling(),
        Sampling(top_k=3),
        Sampling(temperature=0),
        Sampling(top_p=0.5, temperature=2.0),
        Sampling(top_k=1),
        Sampling(top_k=None, top_p=0.9, temperature=0.3),
    ]
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        logits = torch.randn(len(every), 4, 300, generator=generator) * 2
        draws = 1 - torch.rand(len(every), 4, generator=generator)
        together = Picker(every, 300, CPU)(logits, draws)
        for row, sampling in enumerate(every):
            alone = Picker([sampling], 300, CPU)(logits[row : row + 1], draws[row : row + 1])
            assert torch.equal(together[row], alone[0])
