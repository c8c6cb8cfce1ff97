"""Functions of single numbers, beside numpy's and torch's in double precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from hemiola.kernels import functions_numba


def of_each(function: Callable[[np.float32], np.float32], x: np.ndarray) -> np.ndarray:
    return np.array([function(each) for each in x])


def test_an_exponential_is_numpys() -> None:
    small = np.logspace(-6, np.log10(60), 1000)
    x = np.concatenate([-small, [0.0], small]).astype(np.float32)
    np.testing.assert_allclose(of_each(functions_numba.exp, x), np.exp(x.astype(np.float64)), rtol=3e-7)
    assert 0 <= functions_numba.exp(np.float32(-1e30)) < 1e-25
    assert np.isfinite(functions_numba.exp(np.float32(1e30)))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (functions_numba.sigmoid, torch.sigmoid),
        (functions_numba.tanh, torch.tanh),
        (functions_numba.gelu, torch.nn.functional.gelu),
    ],
)
def test_activations_are_torchs(
    ours: Callable[[np.float32], np.float32], theirs: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    x = np.concatenate([np.linspace(-12, 12, 2001), [-1e30, -100, 100]]).astype(np.float32)
    exact = theirs(torch.tensor(x).double()).numpy()
    np.testing.assert_allclose(of_each(ours, x), exact, atol=1e-6, rtol=2e-7)
