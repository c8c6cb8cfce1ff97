"""Windows against scipy's interpolation, their gradients against differences, and what happens at a clip's ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d

from hemiola.blend.windows_torch import cut_and_stretch, placed, room

BATCH, WINDOWS, WIDTH, TOTAL, FRAMES = 2, 3, 4, 50, 16


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, starts and ratios in float64, of windows that lie inside the clip and read between frames."""
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((BATCH, WIDTH, TOTAL))
    ratios = rng.uniform(0.6, 1.6, (BATCH, WINDOWS))
    starts = rng.random((BATCH, WINDOWS)) * (TOTAL - 1 - (FRAMES - 1) * ratios)
    return torch.from_numpy(latents), torch.from_numpy(starts), torch.from_numpy(ratios)


def test_a_window_is_read_as_scipy_interpolates() -> None:
    latents, starts, ratios = drawn()
    found = cut_and_stretch(latents, starts, ratios, FRAMES)
    assert found.shape == (BATCH, WINDOWS, WIDTH, FRAMES)
    for clip in range(BATCH):
        read = interp1d(np.arange(TOTAL), latents[clip].numpy(), axis=1)
        for window in range(WINDOWS):
            places = starts[clip, window].item() + ratios[clip, window].item() * np.arange(FRAMES)
            np.testing.assert_allclose(found[clip, window].numpy(), read(places), atol=1e-12)


def test_at_ratio_1_from_a_whole_frame_on_it_is_a_slice() -> None:
    latents = drawn()[0].float()
    found = cut_and_stretch(latents, torch.tensor([[0.0, 7.0, 34.0]] * 2), torch.ones(2, 3), FRAMES)
    for window, start in enumerate((0, 7, 34)):
        assert torch.equal(found[:, window], latents[..., start : start + FRAMES])


def test_beyond_a_clip_its_first_or_last_frame_is_read() -> None:
    latents = drawn()[0]
    starts = torch.tensor([[-5.0, 40.0, 49.0]] * 2, dtype=torch.float64)
    found = cut_and_stretch(latents, starts, torch.full((2, 3), 1.5, dtype=torch.float64), FRAMES)
    for window, start in enumerate((-5.0, 40.0, 49.0)):
        places = np.clip(start + 1.5 * np.arange(FRAMES), 0, TOTAL - 1)
        expected = [[np.interp(places, np.arange(TOTAL), row) for row in clip] for clip in latents.numpy()]
        np.testing.assert_allclose(found[:, window].numpy(), np.array(expected), atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    latents, starts, ratios = drawn(seed=3)
    places = starts[..., None] + ratios[..., None] * torch.arange(FRAMES)
    # Where two pieces of a line meet there is no one slope.
    assert (places - places.round()).abs().min() > 1e-4
    leaves = [each.requires_grad_() for each in (latents, starts, ratios)]
    assert torch.autograd.gradcheck(lambda *parts: cut_and_stretch(*parts, FRAMES), leaves, eps=1e-6)


def test_a_batch_is_its_windows_one_by_one() -> None:
    latents, starts, ratios = (each.float() for each in drawn(seed=5))
    together = cut_and_stretch(latents, starts, ratios, FRAMES)
    for clip in range(BATCH):
        for window in range(WINDOWS):
            place = slice(clip, clip + 1), slice(window, window + 1)
            alone = cut_and_stretch(latents[place[0]], starts[place], ratios[place], FRAMES)
            assert torch.equal(alone[0, 0], together[clip, window])


def test_a_place_that_is_no_number_is_not_hidden() -> None:
    latents, starts, ratios = drawn()
    starts[1, 2], ratios[0, 0] = np.nan, np.nan
    broken = cut_and_stretch(latents, starts, ratios, FRAMES).isnan().all(-1).all(-1)
    assert broken.tolist() == [[True, False, False], [False, False, True]]


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 1), st.floats(0.5, 2), st.integers(2, 40), st.integers(0, 60))
def test_a_window_that_is_placed_lies_inside(fraction: float, ratio: float, frames: int, more: int) -> None:
    total = int((frames - 1) * ratio) + 2 + more
    ratios = torch.tensor([ratio], dtype=torch.float64)
    latest = room(total, ratios, frames)
    assert latest.item() == pytest.approx(total - 1 - (frames - 1) * ratio)
    start = placed(torch.tensor([fraction], dtype=torch.float64), ratios, total, frames)
    assert start.item() == pytest.approx(fraction * latest.item())
    assert start >= 0
    assert start + (frames - 1) * ratios <= total - 1 + 1e-9
