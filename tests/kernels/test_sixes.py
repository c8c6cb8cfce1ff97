"""Weights of six bits: how they are rounded, and that products read them where they were laid."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from hemiola.kernels import rounding_numba, sixes_numba
from hemiola.kernels.memory import lined

GROUP = sixes_numba.GROUP


def rounded(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    codes, scales = np.empty(weight.shape, np.uint8), np.empty((len(weight), weight.shape[1] // GROUP), np.int8)
    units = np.empty(len(weight), np.float32)
    for part in range(3):
        rounding_numba.rounded(part, 3, weight, codes, scales, units)
    return codes, scales, units


def test_rounding_is_no_worse_than_the_largest_weight_over_31() -> None:
    weight = np.random.default_rng(0).standard_t(4, size=(50, 4 * GROUP)).astype(np.float32)
    codes, scales, units = rounded(weight)
    assert codes.max() < 64
    found = (codes.astype(float) - 32) * np.repeat(scales, GROUP, axis=1) * units[:, None]
    groups = weight.reshape(50, 4, GROUP).astype(float)
    step = np.abs(groups).max(2, keepdims=True) / 31
    plain = np.rint(groups / step) * step
    errors, usual = ((each.reshape(50, 4, GROUP) - groups) ** 2 for each in (found, plain))
    assert errors.mean() < 0.95 * usual.mean()
    # In no group is a weight moved by more than a step and what is cut off at the end of the range.
    assert np.all(np.sqrt(errors.max(2)) < 0.2 * np.abs(groups).max(2) + units[:, None])


def test_nothing_stays_nothing_and_a_lone_weight_stays_itself() -> None:
    weight = np.zeros((16, 2 * GROUP), np.float32)
    weight[3, 7], weight[4, 40] = 2.5, -1e-30
    codes, scales, units = rounded(weight)
    found = (codes.astype(float) - 32) * np.repeat(scales, GROUP, axis=1) * units[:, None]
    np.testing.assert_allclose(found, weight, rtol=0.02, atol=0)


def test_each_weight_has_its_six_bits_and_each_group_its_scale() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(64, size=(128, 3 * GROUP)).astype(np.uint8)
    scales = rng.integers(-127, 128, size=(128, 3)).astype(np.int8)
    out = lined((sixes_numba.size(*codes.shape),), np.uint8)
    assert out.ctypes.data % 64 == 0
    assert out.size * 8 == codes.size * 6 + scales.size * 8
    for part in range(2):
        rounding_numba.laid_out(part, 2, codes, scales, out)
    for output, place in [(0, 0), (17, 5), (63, 31), (64, 32), (100, 70), (127, 95)]:
        bundle, block, lane = output // 64, output % 64 // 16, output % 16
        group, quad, byte = place // GROUP, place % GROUP // 4, lane * 4 + place % 4
        start = (bundle * 3 + group) * 25 * 64
        nibble = out[start + (3 * quad + block // 2) * 64 + byte] >> (4 * (block % 2)) & 15
        pair = out[start + (3 * quad + 2) * 64 + byte] >> (2 * block) & 3
        assert nibble | pair << 4 == codes[output, place]
        assert out[start + 24 * 64 + output % 64].view(np.int8) == scales[output, group]
