"""The lattice of windows: counted by hand, and inside the clip whatever the sizes are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola.blend.config import BlendConfig
from hemiola.blend.lattice import APART_FRAMES, Lattice
from hemiola.errors import WeightsError

CONFIG = BlendConfig(clip_frames=240, output_frames=32, size="tiny")


def test_starts_and_ratios_by_hand() -> None:
    lattice = Lattice(CONFIG)
    # ln 1.5 = 0.405: ten steps of 0.04 to either side of ratio 1.
    assert len(lattice.layers) == 21
    assert [round(layer.log_ratio, 2) for layer in lattice.layers] == [round(0.04 * k, 2) for k in range(-10, 11)]
    even = lattice.layers[10]
    # 239 - 31 = 208 frames to start in: at 0, 8 ... 208.
    assert (even.rows, even.columns, even.input_ratio, even.target_ratio) == (27, 27, 1.0, 1.0)
    cell = lattice.first_cells[10] + 3 * 27 + 5
    assert lattice.starts[:, cell].tolist() == [24.0, 40.0]
    assert lattice.log_ratios[cell] == 0
    # The last: the input read exp(0.2) = 1.2214 times as fast, the target 0.8187 times.
    fast = lattice.layers[20]
    assert (fast.input_ratio, fast.target_ratio) == pytest.approx((1.22140, 0.81873), abs=1e-5)
    # 239 - 31 * 1.2214 = 201.1 frames in steps of 9.77: 21 starts; 239 - 31 * 0.8187 = 213.6 in steps of 6.55: 33.
    assert (fast.rows, fast.columns) == (21, 33)
    assert len(lattice) == lattice.first_cells[20] + 21 * 33 == lattice.log_ratios.size == lattice.starts.shape[1]
    assert lattice.starts[:, -1] == pytest.approx([20 * 8 * 1.22140, 32 * 8 * 0.81873], abs=1e-2)
    # Clips are read in the middle of each 8 output frames: 3.5 frames of the passage after where they begin.
    assert even.input_frames[:3].tolist() == [3.5, 11.5, 19.5]
    assert fast.target_frames[1] == pytest.approx(0.81873 * 11.5, abs=1e-3)


def test_a_selector_begins_with_windows_that_lie_apart() -> None:
    lattice = Lattice(CONFIG)
    cells = lattice.spread(3)
    # A sixth, a half and five sixths of 26 columns, rounded down.
    assert lattice.starts[:, cells].tolist() == [[32.0, 104.0, 168.0]] * 2
    assert (lattice.log_ratios[cells] == 0).all()


@settings(deadline=None, max_examples=60)
@given(
    output=st.integers(16, 100),
    more=st.integers(2, 300),
    limit=st.floats(1.001, 2),
    pairs=st.integers(1, 5),
)
def test_every_cell_lies_inside_the_clip(output: int, more: int, limit: float, pairs: int) -> None:
    total = math.ceil((output - 1) * limit) + more
    config = BlendConfig(clip_frames=total, output_frames=output, pairs=pairs, ratio_limit=limit, size="tiny")
    try:
        lattice = Lattice(config)
    except WeightsError as error:
        assert "apart" in str(error)
        assert total - output < pairs * (APART_FRAMES + 16)
        return
    ratios = np.exp(np.stack([lattice.log_ratios, -lattice.log_ratios]) / 2)
    assert (lattice.starts >= 0).all()
    assert (lattice.starts + (output - 1) * ratios <= total - 1 + 1e-6).all()
    assert (np.abs(lattice.log_ratios) <= math.log(limit) + 1e-6).all()
    for layer in lattice.layers:
        assert len(layer.input_frames) == layer.rows + lattice.window - 1
        assert len(layer.target_frames) == layer.columns + lattice.window - 1
        assert max(layer.input_frames[-1], layer.target_frames[-1]) <= total - 1 + 1e-6
    cells = lattice.spread(pairs)
    assert len(set(cells.tolist())) == pairs
