"""The selector: its sums against sums by hand, windows inside the clip whatever happens, and a copy that it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hemiola.blend.config import BlendConfig
from hemiola.blend.lattice import APART_FRAMES, COLUMN_FRAMES
from hemiola.blend.selector_torch import (
    EPSILON,
    SHORTLIST,
    CorrelationSelector,
    PooledSelector,
    Windows,
    _peak,
    diagonal_sums,
    log_power,
)

CONFIG = BlendConfig(latent_dim=4, clip_frames=240, output_frames=32, size="tiny", embedding_dim=6)


def made(config: BlendConfig = CONFIG, gain: float = 0.0, seed: int = 0) -> CorrelationSelector:
    """A selector whose embedding is drawn, with a gain as if it had learned."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        selector = CorrelationSelector(config)
    torch.nn.init.constant_(selector.gain, gain)
    return selector


def clips(seed: int = 0, batch: int = 2, config: BlendConfig = CONFIG) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, batch, config.latent_dim, config.clip_frames, generator=draw)
    return first, second


def check_inside(windows: Windows, config: BlendConfig = CONFIG) -> None:
    for starts, ratios in zip(windows.parts[::2], windows.parts[1::2]):
        assert torch.isfinite(starts).all()
        # Half a thousandth of a frame is what float32 leaves of a place among some hundreds.
        assert (starts >= -5e-4).all()
        assert (starts + (config.output_frames - 1) * ratios <= config.clip_frames - 1 + 5e-4).all()
        assert (ratios >= 1 / config.ratio_limit - 1e-6).all()
        assert (ratios <= config.ratio_limit + 1e-6).all()


# ---- sums


@pytest.mark.parametrize(("rows", "columns", "length"), [(5, 7, 3), (7, 5, 5), (4, 4, 1), (6, 3, 3)])
def test_diagonal_sums_by_brute_force(rows: int, columns: int, length: int) -> None:
    matrix = torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(1))
    found = diagonal_sums(matrix, length)
    assert found.shape == (2, rows - length + 1, columns - length + 1)
    for row in range(rows - length + 1):
        for column in range(columns - length + 1):
            expected = sum(matrix[:, row + step, column + step] for step in range(length))
            torch.testing.assert_close(found[:, row, column], expected)


def test_scores_are_the_cosine_of_two_windows_summed_by_hand() -> None:
    selector = made()
    lattice = selector.lattice
    moments = clips(seed=2)
    with torch.no_grad():
        scores = selector.scores(*(selector._moments(each) for each in moments)).numpy()
        moments = [selector._moments(each).double().numpy() for each in moments]
    assert scores.shape == (2, len(lattice))
    columns = lattice.frames // COLUMN_FRAMES
    for cell in (0, 77, int(lattice.first_cells[10]) + 31, len(lattice) - 1):
        for pair in range(2):
            heard = []
            for clip, sign in ((0, 1), (1, -1)):
                ratio = math.exp(sign * lattice.log_ratios[cell] / 2)
                places = lattice.starts[clip, cell] + ratio * (8 * np.arange(columns) + 3.5)
                heard.append(np.array([np.interp(places, np.arange(240), row) for row in moments[clip][pair]]))
            a, b = heard
            size = np.sqrt((a**2).sum() * (b**2).sum() + EPSILON * columns**2)
            assert scores[pair, cell] == pytest.approx((a * b).sum() / size, abs=1e-5)
    assert np.abs(scores).max() <= 1 + 1e-6


def test_a_cell_is_scored_alike_on_the_lattice_and_off_it() -> None:
    """The neighbours of a cell, where they are cells themselves, have these cells' scores."""
    selector = made()
    moments = [selector._moments(each) for each in clips(seed=4)]
    cell = int(selector.lattice.first_cells[10]) + 5 * 27 + 6
    found = selector._similarity((moments[0], moments[1]), selector._around(torch.full((2, 1, 1), cell)))[:, 0, 0]
    scores = selector.scores(*moments)
    # The cell itself, an input start back and on, a target start back and on.
    beside = [cell, cell - 27, cell + 27, cell - 1, cell + 1]
    torch.testing.assert_close(found[:, :5], scores[:, beside], atol=1e-5, rtol=0)


def test_moments_are_of_the_power_of_patterns() -> None:
    latents = clips(seed=6)[0]
    found = log_power(latents)
    padded = np.pad(latents.numpy() ** 2, ((0, 0), (0, 0), (8, 7)), mode="edge")
    expected = np.stack([padded[..., at : at + 16].mean(-1) for at in range(240)], -1)
    np.testing.assert_allclose(found.numpy(), np.log(expected + 0.05), atol=1e-5)
    # A waveform turned upside down sounds the same.
    torch.testing.assert_close(made()._moments(-latents), made()._moments(latents))


def test_a_peak_between_three_points_is_that_of_their_parabola() -> None:
    places = torch.tensor([0.3, -0.49, 0.0, 2.0])
    left, centre, right = (-3 * (at - places).square() + 5 for at in (-1, 0, 1))
    torch.testing.assert_close(_peak(left, centre, right), torch.tensor([0.3, -0.49, 0.0, 0.5]))
    # Where the scores are flat, or lowest in the middle, there is no peak to move to.
    flat = torch.zeros(2)
    assert _peak(torch.tensor([1.0, 0.0]), flat, torch.tensor([2.0, 0.0])).tolist() == [0, 0]


# ---- what is chosen


def test_at_first_windows_are_distinct_and_ratios_1() -> None:
    windows = made()(*clips())
    expected = torch.tensor([[32.0, 104.0, 168.0]] * 2)
    assert torch.equal(windows.input_ratios, torch.ones(2, 3))
    assert torch.equal(windows.target_ratios, torch.ones(2, 3))
    torch.testing.assert_close(windows.input_starts, expected)
    torch.testing.assert_close(windows.target_starts, expected)


@pytest.mark.parametrize("drawn", [False, True])
def test_chosen_windows_lie_apart(drawn: bool) -> None:
    selector = made(gain=1.0)
    noise = selector.noise(range(20)) if drawn else None
    input, target = clips(seed=8, batch=20)
    with torch.no_grad():
        windows = selector(input, target, noise).chosen
        logits = selector._strength * selector.scores(selector._moments(input), selector._moments(target))
        cells = selector._pick(logits, 1)[..., 0]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        grid = (selector.starts[:, cells[:, first]] - selector.starts[:, cells[:, second]]).abs().amax(0)
        assert (grid >= APART_FRAMES).all()
        apart = torch.stack(
            [(starts[:, first] - starts[:, second]).abs() for starts in (windows.input_starts, windows.target_starts)]
        ).amax(0)
        # Each may have moved half a column from its cell.
        assert (apart >= APART_FRAMES - 1.5 * COLUMN_FRAMES).all()


def test_a_shortlist_begins_with_what_was_chosen() -> None:
    selector = made(gain=0.5)
    windows = selector(*clips(seed=3), selector.noise([1, 2]))
    for part in windows.parts:
        assert part.shape == (2, 3, SHORTLIST)
    assert windows.weights is not None and windows.distances is not None
    torch.testing.assert_close(windows.weights.sum(-1), torch.ones(2, 3))
    assert (windows.distances > 0).all()
    assert not windows.distances.requires_grad
    for whole, chosen in zip(windows.parts, windows.chosen.parts):
        assert torch.equal(whole[..., 0], chosen)
    assert windows.chosen.weights is None


def test_distances_are_of_the_power_in_two_windows() -> None:
    """Of a clip and its own copy they are nothing at lag 0, and something elsewhere."""
    selector = made()
    clip = clips(seed=5, batch=1)[0]
    even = int(selector.lattice.first_cells[10])
    cells = torch.tensor([[[even + 4 * 27 + 4, even + 4 * 27 + 12]]])
    same, other = selector._distances(clip, clip, selector._around(cells))[0, 0].tolist()
    centred = clip - clip.mean(-1, keepdim=True)
    powers = log_power(centred / (centred.square().mean(-1, keepdim=True) + EPSILON).sqrt())[0].double().numpy()
    read = [
        np.array([np.interp(start + 8 * np.arange(4) + 3.5, np.arange(240), row) for row in powers])
        for start in (32, 96)
    ]
    assert same == 0
    assert other == pytest.approx(np.mean((read[0] - read[1]) ** 2), rel=1e-4)


@settings(deadline=None, max_examples=25)
@given(
    gain=st.floats(-1e3, 1e3) | st.floats(-0.1, 0.1),
    seed=st.integers(0, 100),
    kind=st.sampled_from(["noise", "silence", "constant", "loud", "one frame", "silence beside noise"]),
    limit=st.sampled_from([1.01, 1.05, 1.2, 1.5, 2.0]),
    drawn=st.booleans(),
)
def test_windows_lie_inside_the_clip_and_gradients_are_finite(
    gain: float, seed: int, kind: str, limit: float, drawn: bool
) -> None:
    output = 32
    config = BlendConfig(
        latent_dim=3,
        clip_frames=max(math.ceil((output - 1) * limit) + 1, output + 3 * APART_FRAMES + 16),
        output_frames=output,
        ratio_limit=limit,
        size="tiny",
        embedding_dim=2,
    )
    selector = made(config, gain, seed)
    torch.nn.init.normal_(selector.shared[-1].weight, std=10.0)
    input, target = (_of_kind(kind, each) for each in clips(seed, 1, config))
    leaves = [each.requires_grad_() for each in (input, target)]
    windows = selector(*leaves, selector.noise([seed]) if drawn else None)
    check_inside(windows, config)
    check_inside(windows.chosen, config)
    total = sum(part.sum() for part in windows.parts)
    total = total if windows.weights is None else total + windows.weights.square().sum()
    for gradient in torch.autograd.grad(total, [*leaves, *selector.parameters()], allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


def _of_kind(kind: str, noise: Tensor) -> Tensor:
    if kind == "one frame":
        return noise * (torch.arange(noise.shape[-1]) == 40)
    if kind == "silence beside noise":
        return noise * (torch.arange(noise.shape[-1]) > 100)
    scale = {"noise": 1.0, "silence": 0.0, "constant": 0.0, "loud": 1e4}[kind]
    return scale * noise + (3.0 if kind == "constant" else 0.0)


@pytest.mark.parametrize("lag", [48, -35, 8])
def test_a_copy_in_the_midst_of_noise_is_found(lag: int) -> None:
    config = BlendConfig(latent_dim=8, clip_frames=420, output_frames=128, pairs=1, size="tiny", embedding_dim=16)
    input, target = clips(seed=lag + 100, batch=4, config=config)
    first = 100
    target[..., first + lag : first + lag + 220] = input[..., first : first + 220]
    with torch.no_grad():
        windows = made(config, gain=1.0)(input, target)
    middles = [start + ratio * 127 / 2 for start, ratio in zip(windows.parts[::2], windows.parts[1::2])]
    found = (middles[1] - middles[0])[:, 0]
    assert (found - lag).abs().max() < COLUMN_FRAMES / 2
    # So short a window drifts by 3 frames to its ends where the ratio is 5 % off: hardly a fifth of a column.
    assert (windows.input_ratios / windows.target_ratios).log().abs().max() < 0.1


# ---- draws


def test_noise_is_a_function_of_its_seed() -> None:
    selector = made()
    noise = selector.noise([5, 3, 5])
    assert noise.shape == (3, len(selector.lattice))
    assert torch.equal(noise[0], noise[2])
    assert torch.equal(noise[1:2], selector.noise([3]))
    assert not torch.equal(noise[0], noise[1])
    # Gumbel's: mean 0.577, variance pi^2 / 6.
    wide = selector.noise(range(8))
    assert wide.mean().item() == pytest.approx(0.5772, abs=0.05)
    assert wide.var().item() == pytest.approx(math.pi**2 / 6, rel=0.1)


def test_two_ranks_draw_what_one_would() -> None:
    selector = made(gain=0.3)
    input, target = clips(seed=9, batch=4)
    with torch.no_grad():
        together = selector(input, target, selector.noise([10, 11, 12, 13]))
        for half in (slice(0, 2), slice(2, 4)):
            seeds = list(range(10, 14))[half]
            apart = selector(input[half], target[half], selector.noise(seeds))
            for one, other in zip(apart.parts, together.parts):
                torch.testing.assert_close(one, other[half], atol=1e-3, rtol=0)
            assert apart.weights is not None and together.weights is not None
            torch.testing.assert_close(apart.weights, together.weights[half])


def test_draws_differ_and_the_best_does_not() -> None:
    selector = made(gain=0.1)
    input, target = (each[:1].expand(6, -1, -1) for each in clips())
    with torch.no_grad():
        drawn = selector(input, target, selector.noise(range(6))).chosen.input_starts
        best = selector(input, target).input_starts
    assert len(set(drawn[:, 0].tolist())) > 3
    assert torch.equal(best, best[:1].expand(6, -1))


def test_the_pooled_selector_is_as_it_was() -> None:
    """Ratios from 1 to 1.2, starts that get no gradient, and nothing that is drawn."""
    config = BlendConfig(latent_dim=4, clip_frames=240, output_frames=32, size="tiny", selector="pooled")
    selector = PooledSelector(config)
    windows = selector(*clips())
    check_inside(windows)
    assert not windows.input_starts.requires_grad and not windows.target_starts.requires_grad
    assert windows.input_ratios.requires_grad
    assert (windows.input_ratios >= 1).all() and (windows.input_ratios <= 1.2).all()
    assert selector.noise([1, 2]) is None
    assert windows.chosen is windows
