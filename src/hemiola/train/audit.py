"""The audit: whether every loss that has a weight moves what it should, told by the size of its gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import default_collate

from hemiola.train.blend import BlendTraining
from hemiola.train.blend_losses import BLEND_LOSSES
from hemiola.train.blend_runs import Parts

COLUMNS = ("starts", "ratios", "selector", "tonality", "extractors", "weights", "composer")
# What is made before the component weights, and what of it reaches the output.
BEFORE_WEIGHTS = {"starts", "ratios", "selector", "tonality", "extractors", "weights"}
REACHES = {
    **{name: set(COLUMNS) for name in BLEND_LOSSES},
    "balance": BEFORE_WEIGHTS,
    "ratio_diversity": {"ratios", "selector"},
}
SHAKE = 0.2  # so much that passages are louder than their windows: else no band stands out, and no loss says so


@dataclass(frozen=True)
class Row:
    """One loss: its value, its weight, and the norm of its own gradient in each of COLUMNS."""

    loss: str
    value: float
    weight: float
    norms: Mapping[str, float]

    @property
    def wanting(self) -> tuple[str, ...]:
        """Columns that this loss should move and does not, or that it should not move and does."""
        return tuple(name for name in COLUMNS if (self.norms[name] > 0) != (name in REACHES[self.loss]))


def audit(parts: Parts, *, items: int = 2, seed: int = 0) -> list[Row]:
    """A row for each loss, of the first `items` training pairs, through the frozen decoder.

    A network that has learned nothing hides much: its last layers are 0, and stop what comes from behind them. So its
    parameters are shaken first.
    """
    # Where the codec is; a run's trainer would have brought the rest along.
    device = next(parts.module.frozen.codec.parameters()).device
    module = parts.module.to(device)
    shake(module, seed)
    batch: dict[str, Tensor] = default_collate([parts.train[index] for index in range(items)])
    return gradients(module, {name: each.to(device) for name, each in batch.items()})


def table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of text: the loss, its value and its gradient's norms; a dot where there is none."""
    lines = [
        [row.loss, f"{row.value:.3f}", *(f"{row.norms[name]:.0e}" if row.norms[name] else "." for name in COLUMNS)]
        for row in rows
    ]
    return ["loss", "value", *COLUMNS], lines


def gradients(module: BlendTraining, batch: Mapping[str, Tensor]) -> list[Row]:
    """A row for each loss that has a weight, of one batch and windows that are drawn."""
    network = module.network
    windows = network.select(batch["input"], batch["target"], network.noise(module.seeds(batch)))
    terms = module.terms(network.compose(batch["input"], batch["target"], windows), batch)
    # Starts and ratios are those that the windows were cut by; what a loss says of the shortlist is the selector's.
    groups: dict[str, list[Tensor]] = {
        "starts": [windows.input_starts, windows.target_starts],
        "ratios": [windows.input_ratios, windows.target_ratios],
        "selector": list(network.selector.parameters()),
        "tonality": [*network.tonality.parameters(), *network.strength.parameters()],
        "extractors": list(network.extractors.parameters()),
        "weights": list(network.weights.parameters()),
        "composer": list(network.composer.parameters()),
    }
    return [Row(name, term.item(), module.weights[name], _norms(term, groups)) for name, term in terms.items()]


def shake(module: BlendTraining, seed: int) -> None:
    """Add noise to every parameter of the network, keyed by the seed, so that none is 0 by birth."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in module.network.parameters():
            each.add_(SHAKE * torch.randn(each.shape, generator=draw).to(each.device))


def _norms(term: Tensor, groups: Mapping[str, list[Tensor]]) -> dict[str, float]:
    asked = [each for group in groups.values() for each in group if each.requires_grad]
    if not term.requires_grad:
        return dict.fromkeys(groups, 0.0)
    # All at once: it is the way back through the decoder that takes long.
    found = dict(zip(map(id, asked), torch.autograd.grad(term, asked, retain_graph=True, allow_unused=True)))
    gradients = {name: [found.get(id(each)) for each in group] for name, group in groups.items()}
    return {
        name: math.sqrt(sum(float(each.norm()) ** 2 for each in group if each is not None))
        for name, group in gradients.items()
    }
