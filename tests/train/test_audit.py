"""The audit: every cell as it should be, gradients as differences say, and faults that it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate

from hemiola.blend import network_torch
from hemiola.blend.config import BlendConfig
from hemiola.blend.network_torch import BlendNetwork
from hemiola.blend.selector_torch import Windows
from hemiola.blend.windows_torch import cut_and_stretch
from hemiola.train import audit
from hemiola.train.audit import COLUMNS, REACHES
from hemiola.train.blend import BlendRecipe, BlendTraining
from hemiola.train.blend_losses import BLEND_LOSSES, DEFAULT_WEIGHTS
from hemiola.train.blend_runs import Parts, assemble

Make = Callable[..., dict[str, Any]]
Batch = dict[str, Tensor]

BUNDLED = pytest.param("bundled", marks=pytest.mark.slow)


def bundled(seconds: int = 4) -> tuple[BlendTraining, Batch]:
    """A training through the bundled codec, and a batch of two clips that share what they are made of."""
    from hemiola.codec.model import EncodecModel

    codec = EncodecModel.from_pretrained("sketch-24khz", backend="torch", device="cpu").network
    codec.requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    length = seconds * 24_000
    loudness = torch.rand(4, length // 1200, generator=draw).repeat_interleave(1200, 1)
    audio = (0.3 * loudness * torch.randn(4, length, generator=draw))[:, None]
    with torch.no_grad():
        latents = codec.latents(audio)
    torch.manual_seed(0)
    config = BlendConfig(clip_frames=latents.shape[-1], output_frames=64, pairs=2, size="tiny")
    network = BlendNetwork(config)
    network.fit_latents(latents.mean((0, 2)), latents.std((0, 2)))
    module = BlendTraining(network, codec, BlendRecipe(decode_seconds=0.25))
    return module, {"input": latents[:2], "target": latents[2:], "real": latents[:2, :, :64], "item": torch.arange(2)}


@pytest.fixture
def given(blend_config: Make) -> Iterator[Callable[[str], tuple[BlendTraining, Batch]]]:
    """A training and a batch, of a tiny codec or the bundled one."""

    def make(kind: str) -> tuple[BlendTraining, Batch]:
        if kind == "bundled":
            return bundled()
        parts = assemble(blend_config())
        return parts.module, default_collate([parts.train[item] for item in range(2)])

    with torch.random.fork_rng():
        yield make


Given = Callable[[str], tuple[BlendTraining, Batch]]


# ---- the table


@pytest.mark.parametrize("kind", ["tiny", BUNDLED])
def test_every_loss_moves_what_it_should_and_nothing_else(given: Given, kind: str) -> None:
    module, batch = given(kind)
    audit.shake(module, 0)
    rows = {row.loss: row for row in audit.gradients(module, batch)}
    assert list(rows) == list(DEFAULT_WEIGHTS)
    for loss, row in rows.items():
        moved = {name for name in COLUMNS if row.norms[name] > 0}
        assert moved == REACHES[loss], loss
        assert row.wanting == ()
        assert row.weight == DEFAULT_WEIGHTS[loss]


def test_what_should_be_reached() -> None:
    """All by each, but that components are balanced and tempi spread before there is an output."""
    assert set(REACHES) == set(BLEND_LOSSES)
    assert set(COLUMNS) == {"starts", "ratios", "selector", "tonality", "extractors", "weights", "composer"}
    for loss, columns in REACHES.items():
        if loss == "balance":
            assert columns == set(COLUMNS) - {"composer"}
        elif loss == "ratio_diversity":
            assert columns == {"ratios", "selector"}
        else:
            assert columns == set(COLUMNS)


def test_an_audit_of_a_config_is_a_table(blend_config: Make) -> None:
    config = blend_config()
    config["recipe"]["losses"] = {"stft": 0.0}
    # It trains nothing, so it is no matter that a run has its checkpoint there.
    Path(config["run"]["folder"]).mkdir(parents=True, exist_ok=True)
    (Path(config["run"]["folder"]) / "last.ckpt").touch()
    headings, lines = audit.table(audit.audit(assemble(config)))
    assert headings == ["loss", "value", *COLUMNS]
    assert [line[0] for line in lines] == [name for name in DEFAULT_WEIGHTS if name != "stft"]
    told = {line[0]: line[2:] for line in lines}
    assert told["ratio_diversity"][0] == "." and told["balance"][-1] == "."
    assert all("e" in cell for cell in told["mel"])


def test_a_gradient_that_is_cut_off_is_found(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_starts(latents: Tensor, starts: Tensor, ratios: Tensor, frames: int) -> Tensor:
        return cut_and_stretch(latents, starts.detach(), ratios, frames)

    module, batch = given("tiny")
    audit.shake(module, 0)
    monkeypatch.setattr(network_torch, "cut_and_stretch", without_starts)
    wanting = {row.loss: row.wanting for row in audit.gradients(module, batch)}
    assert wanting == {loss: () if loss == "ratio_diversity" else ("starts",) for loss in BLEND_LOSSES}


def test_the_earlier_selector_learns_no_starts(blend_config: Make) -> None:
    config = blend_config()
    config["model"]["selector"] = "pooled"
    parts: Parts = assemble(config)
    rows = audit.audit(parts)
    assert all("starts" in row.wanting for row in rows if "starts" in REACHES[row.loss])


def total_gradient(module: BlendTraining, batch: Batch) -> list[Tensor]:
    network = module.network
    blended = network(batch["input"], batch["target"], network.noise(module.seeds(batch)))
    total = module.total(module.terms(blended, batch))
    found = torch.autograd.grad(total, list(network.parameters()), allow_unused=True, materialize_grads=True)
    return list(found)


@pytest.mark.parametrize("kind", ["tiny", BUNDLED])
def test_setting_any_weight_to_0_changes_the_gradient(given: Given, kind: str) -> None:
    module, batch = given(kind)
    audit.shake(module, 0)
    usual = dict(module.weights)
    whole = total_gradient(module, batch)
    again = total_gradient(module, batch)
    assert all(torch.equal(a, b) for a, b in zip(whole, again))
    for name in usual:
        module.weights = {**usual, name: 0.0}
        without = total_gradient(module, batch)
        assert any(not torch.equal(a, b) for a, b in zip(whole, without)), name


# ---- against differences

STEP = 1e-7  # of a frame: so little that hardly a rectifier behind changes sides


def places(names: int, frames: int) -> list[Tensor]:
    """Input starts, input ratios, target starts, target ratios [2, P] in float64, between frames all along."""
    for seed in count():
        draw = torch.Generator().manual_seed(seed)
        starts = 10 + 150 * torch.rand(2, 2, names, generator=draw, dtype=torch.float64)
        ratios = 0.8 + 0.4 * torch.rand(2, 2, names, generator=draw, dtype=torch.float64)
        read = starts[..., None] + ratios[..., None] * torch.arange(frames)
        # Where two pieces of a line meet there is no one slope.
        if (read - read.round()).abs().min() > 2 * STEP * frames:
            return [starts[0], ratios[0], starts[1], ratios[1]]
    raise AssertionError


@pytest.mark.parametrize("kind", ["tiny", BUNDLED])
def test_starts_and_ratios_are_moved_as_finite_differences_say(given: Given, kind: str) -> None:
    module, batch = given(kind)
    audit.shake(module, 0)
    module.double()
    module.frozen.codec.double()
    batch = {name: each.double() if each.is_floating_point() else each for name, each in batch.items()}
    config = module.network.config
    leaves = [each.clone().requires_grad_() for each in places(config.pairs, config.output_frames)]

    def terms(parts: list[Tensor]) -> dict[str, Tensor]:
        return module.terms(module.network.compose(batch["input"], batch["target"], Windows(*parts)), batch)

    found = {
        name: torch.autograd.grad(term, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        for name, term in terms(leaves).items()
    }
    assert set(found) == set(BLEND_LOSSES)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for number, leaf in enumerate(leaves):
            # All windows at once, each a step of its own: what one loses, another does not win back.
            way = STEP * (0.5 + torch.rand(leaf.shape, generator=draw, dtype=torch.float64))
            later, sooner = (
                terms([part + sign * way if part is leaf else part for part in leaves]) for sign in (0.5, -0.5)
            )
            for name, gradients in found.items():
                expected, gradient = float(later[name] - sooner[name]), float((gradients[number] * way).sum())
                assert gradient == pytest.approx(expected, rel=0.01, abs=1e-14), (name, number)
                assert bool(gradient) == (COLUMNS[number % 2] in REACHES[name]), (name, number)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_the_audit_is_the_same_on_a_gpu(blend_config: Make, pair_folder: Path) -> None:
    rows = audit.audit(assemble(blend_config(accelerator="gpu")))
    assert all(row.wanting == () for row in rows)
