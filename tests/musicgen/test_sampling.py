"""Sampling: the settings, the noise, and the pick against distributions worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola.errors import InputError
from hemiola.musicgen.sampling import LARGEST_SEED, Sampling, draws, gumbels
from hemiola.musicgen.sampling_torch import Picker

CPU = torch.device("cpu")
seeds = st.integers(0, LARGEST_SEED)


@settings(deadline=None)
@given(seeds, st.integers(0, 99), st.integers(0, 50), st.integers(1, 9), st.integers(1, 8), st.integers(1, 21))
def test_noise_depends_on_its_own_key_alone(
    seed: int, variation: int, start: int, steps: int, books: int, size: int
) -> None:
    noise = gumbels(draws(seed, variation, range(start, start + steps), books, size))
    assert noise.dtype == np.float32
    assert noise.shape == (steps, books, size)
    assert np.isfinite(noise).all()
    more = gumbels(draws(seed, variation, range(0, start + steps + 5), books + 3, size))
    assert np.array_equal(noise, more[start : start + steps, :books])


def test_noise_is_gumbel_and_independent() -> None:
    noise = gumbels(draws(1, 0, range(500), 4, 10))
    assert scipy.stats.kstest(noise.ravel(), "gumbel_r").pvalue > 1e-3
    others = [
        noise[:, 1],
        noise[1:, 0],
        noise[:, 0, 1:],
        gumbels(draws(2, 0, range(500), 1, 10))[:, 0],
        gumbels(draws(1, 1, range(500), 1, 10))[:, 0],
    ]
    for other in others:
        here = noise[: len(other), 0, : other.shape[1]]
        assert abs(np.corrcoef(here.ravel(), other.ravel())[0, 1]) < 0.05


def test_noise_stays_what_it_is() -> None:
    # The first numbers that Philox4x64 gives for this key and counter: a seed must mean the same in every release.
    stream = np.random.Generator(np.random.Philox(key=np.array([7, 3], np.uint64), counter=[0, 2, 0, 0]))
    wanted = scipy.stats.gumbel_r.ppf(stream.random(6))
    np.testing.assert_allclose(gumbels(draws(7, 3, range(1), 3, 6))[0, 2], wanted, rtol=1e-4)


@pytest.mark.parametrize("seed", [-1, LARGEST_SEED + 1, 1.5, True, None])
def test_a_bad_seed_is_named(seed: object) -> None:
    with pytest.raises(InputError, match="seed must be"):
        gumbels(draws(seed, 0, range(1), 1, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 0),
        ("top_p", 1.1),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("guidance", float("inf")),
        ("guidance", True),
    ],
)
def test_a_bad_setting_is_named(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        Sampling(**{name: value})  # type: ignore[arg-type]


def noise_for(count: int, size: int) -> torch.Tensor:
    return torch.tensor(gumbels(draws(11, 0, range(count), 1, size))).transpose(0, 1)


def kept_tokens(logits: list[float], sampling: Sampling) -> set[int]:
    """All tokens that ever win in thousands of draws: those with a part in a hundred surely do."""
    rows = torch.tensor(logits).expand(1, 4000, -1)
    return set(Picker([sampling], len(logits), CPU)(rows, noise_for(4000, len(logits)))[0].tolist())


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


def test_what_is_impossible_is_never_picked_and_no_numbers_are_no_token() -> None:
    rows = torch.tensor([[-torch.inf, 0.0, -9.0, 1.0, -torch.inf]]).expand(1, 500, -1)
    assert set(Picker([Sampling(top_k=None)], 5, CPU)(rows, noise_for(500, 5))[0].tolist()) <= {1, 2, 3}
    for sampling in (Sampling(), Sampling(top_k=2), Sampling(top_p=0.5), Sampling(temperature=0)):
        picked = Picker([sampling], 5, CPU)(rows.where(rows != 0, torch.nan), noise_for(500, 5))
        assert (picked == 5).all()


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
    rows = torch.tensor(logits, dtype=torch.float32).expand(1, 40000, -1)
    counts = np.bincount(Picker([sampling], 12, CPU)(rows, noise_for(40000, 12))[0].numpy(), minlength=12)
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
        noise = torch.randn(len(every), 4, 300, generator=generator)
        together = Picker(every, 300, CPU)(logits, noise)
        for row, sampling in enumerate(every):
            alone = Picker([sampling], 300, CPU)(logits[row : row + 1], noise[row : row + 1])
            assert torch.equal(together[row], alone[0])
