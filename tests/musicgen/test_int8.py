"""Matrices in 8 bits: the sum by hand, rows that do not know each other, and what is heard of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hemiola.bench.generate_torch import guided_logits
from hemiola.errors import BackendError
from hemiola.musicgen.batch import Job
from hemiola.musicgen.int8_torch import Int8Matrix
from hemiola.musicgen.model import MusicgenModel

PROMPT = "gentle guitar in A minor, 100 bpm"


def by_hand(weight: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Round both to whole steps, each output and each row with its own, and sum in float64."""
    weight_step = np.abs(weight).max(1, keepdims=True) / 127
    hidden_step = np.abs(hidden).max(1, keepdims=True) / 127
    whole_weight, whole_hidden = np.rint(weight / weight_step), np.rint(hidden / hidden_step)
    return (whole_hidden @ whole_weight.T) * hidden_step * weight_step.T


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(24, 40)).astype(np.float32)


@pytest.fixture
def hidden() -> np.ndarray:
    scales = np.array([[1.0], [1e-3], [300.0]])
    return (np.random.default_rng(1).normal(size=(3, 40)) * scales).astype(np.float32)


def test_the_product_is_that_of_whole_numbers(weight: np.ndarray, hidden: np.ndarray) -> None:
    found = Int8Matrix(torch.tensor(weight)).times(torch.tensor(hidden)).numpy()
    expected = by_hand(weight.astype(np.float64), hidden.astype(np.float64))
    # One place in 40 may round the other way: half a step of either kind.
    step = np.abs(hidden).max(1, keepdims=True) / 127 * np.abs(weight).max(1)
    assert np.all(np.abs(found - expected) < 1.01 * step)
    exact = hidden @ weight.T
    share = np.sqrt(np.mean((found - exact) ** 2, 1) / np.mean(exact**2, 1))
    assert np.all(share < 0.02)


def test_what_gelu_gives_has_most_steps_above_zero(weight: np.ndarray, hidden: np.ndarray) -> None:
    given = torch.nn.functional.gelu(torch.tensor(hidden))
    given[2] = -given[2].abs()  # a row that lies below zero as a whole is not cut off
    exact = given @ torch.tensor(weight).T
    plain, activated = (
        (Int8Matrix(torch.tensor(weight), kind).times(given) - exact).norm(dim=1) / exact.norm(dim=1)
        for kind in (False, True)
    )
    assert activated[0] < 0.8 * plain[0]
    assert bool((activated < 0.05).all())


def test_a_row_does_not_know_the_others(weight: np.ndarray, hidden: np.ndarray) -> None:
    matrix = Int8Matrix(torch.tensor(weight))
    together = matrix.times(torch.tensor(hidden))
    for row in range(3):
        assert torch.equal(matrix.times(torch.tensor(hidden[row : row + 1]))[0], together[row])


def test_a_residual_sum_and_a_row_of_zeros(weight: np.ndarray, hidden: np.ndarray) -> None:
    matrix, given = Int8Matrix(torch.tensor(weight)), torch.tensor(hidden)
    total = torch.randn(3, 24)
    torch.testing.assert_close(matrix.plus_times(total, given), total + matrix.times(given))
    assert torch.equal(matrix.times(torch.zeros(2, 40)), torch.zeros(2, 24))
    empty = Int8Matrix(torch.zeros(24, 40))
    assert torch.equal(empty.times(given), torch.zeros(3, 24))


def test_a_torch_without_the_kernel_says_what_to_use(weight: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "quantize_per_channel")
    with pytest.raises(BackendError, match="no 8-bit kernels: use --dtype float32 or bfloat16"):
        Int8Matrix(torch.tensor(weight))


def test_what_8_bits_change_is_far_below_what_chance_does() -> None:
    """On the bundled model, against float32: less than 0.01 nats a token, and mostly the same likeliest token."""
    whole, small = (
        MusicgenModel.from_pretrained("sketch", backend="torch", dtype=each) for each in ("float32", "int8")
    )
    codes = np.concatenate([each[0] for each in whole.tokens([Job(PROMPT, 150, seed=3)])], axis=1)
    exact, rounded = (guided_logits(each, PROMPT, codes).log_softmax(-1) for each in (whole, small))
    divergence = (exact.exp() * (exact - rounded)).sum(-1)
    assert divergence.mean() < 0.01
    assert (exact.argmax(-1) == rounded.argmax(-1)).float().mean() > 0.85


def test_alone_and_in_a_batch_the_tokens_are_the_same(tiny: Path) -> None:
    model = MusicgenModel.from_pretrained(tiny, backend="torch", dtype="int8")
    jobs = [Job(text, 12, seed=seed) for seed, text in enumerate(("slow piano", "fast", "bells at 90 bpm"))]
    together = [np.concatenate([block[row] for block in model.tokens(jobs)], axis=1) for row in range(3)]
    for job, expected in zip(jobs, together):
        alone = np.concatenate([block[0] for block in model.tokens([job])], axis=1)
        assert np.array_equal(alone, expected)


def test_a_processor_that_adds_in_16_bits_gets_half_the_range(
    weight: np.ndarray, hidden: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    matrix = Int8Matrix(torch.tensor(weight))
    # The largest pair of products: two bytes of 127 times two of 127.
    assert 2 * (matrix.steps[1] + round(1 / matrix.steps[0])) * 127 < 2**15
    exact = hidden @ weight.T
    share = np.sqrt(np.mean((matrix.times(torch.tensor(hidden)).numpy() - exact) ** 2, 1) / np.mean(exact**2, 1))
    assert np.all(share < 0.03)
