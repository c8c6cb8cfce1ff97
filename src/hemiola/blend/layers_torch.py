"""The parts of a blend between the windows and the output: tonality, extractors, component weights and composer."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hemiola.blend.config import Size

Layer = TypeVar("Layer", nn.Linear, nn.Conv1d)

SLOPE = 0.2
# What is listened for in a window, and the two kernels that do it.
BRANCHES = {"rhythm": (3, 5), "harmony": (7, 9), "timbre": (15, 21)}


class Tonality(nn.Module):
    """Colours a window: a depthwise and a pointwise convolution whose part is added; at first it adds nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pointwise = nn.Conv1d(width, width, 1)
        silence(self.pointwise)

    def forward(self, window: Tensor, strength: Tensor) -> Tensor:
        """window [N, D, F], strength [N] from 0 to 1 -> [N, D, F]."""
        coloured = self.norm(self.depthwise(window).mT).mT
        return window + strength[:, None, None] * self.pointwise(F.gelu(coloured))


class Branch(nn.Module):
    """Two convolutions beside a skip: one component of a window, [N, D, F] -> [N, channels, F]."""

    def __init__(self, width: int, channels: int, kernels: tuple[int, int]) -> None:
        super().__init__()
        first, second = kernels
        self.first = nn.Conv1d(width, channels, first, padding=first // 2)
        self.second = nn.Conv1d(channels, channels, second, padding=second // 2)
        self.skip = nn.Conv1d(width, channels, 1)
        # Over channels and time of one window: what else is in the batch changes nothing.
        self.norms = nn.ModuleList(nn.GroupNorm(1, channels) for _ in range(2))

    def forward(self, window: Tensor) -> Tensor:
        """window [N, D, F] -> [N, channels, F]."""
        hidden = F.leaky_relu(self.norms[0](self.first(window)), SLOPE)
        return F.leaky_relu(self.norms[1](self.second(hidden)) + self.skip(window), SLOPE)


class Extractors(nn.Module):
    """Rhythm, harmony and timbre of a window of the input and of one of the target: six components."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.input, self.target = (
            nn.ModuleDict({name: Branch(width, channels, kernels) for name, kernels in BRANCHES.items()})
            for _ in range(2)
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Windows [N, D, F] -> components [N, 6, channels, F]: the input's three, then the target's."""
        found = [branch(input) for branch in self.input.values()]
        return torch.stack(found + [branch(target) for branch in self.target.values()], 1)


class ComponentWeights(nn.Module):
    """How much of each component is heard in each frame: convolutions over all six, and a softmax."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(6 * channels, channels, 1)
        self.head = nn.Conv1d(channels, 6, 1)
        silence(self.head)

    def forward(self, components: Tensor) -> Tensor:
        """components [N, 6, channels, F] -> weights [N, 6, F] that sum to 1."""
        return self.head(F.leaky_relu(self.hidden(components.flatten(1, 2)), SLOPE)).softmax(1)


class Composer(nn.Module):
    """A transformer over the weighted components: what is added to the mix of the windows; at first nothing."""

    def __init__(self, width: int, size: Size) -> None:
        super().__init__()
        self.enter = nn.Linear(6 * size.channels, size.width)
        layer = nn.TransformerEncoderLayer(
            size.width, size.heads, size.ffn, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, size.layers, nn.LayerNorm(size.width), enable_nested_tensor=False)
        half = size.width // 2
        self.leave = nn.Sequential(nn.Linear(size.width, half), nn.GELU(), silence(nn.Linear(half, width)))

    def forward(self, components: Tensor) -> Tensor:
        """Weighted components [N, 6, channels, F] -> [N, D, F]."""
        hidden = self.enter(components.flatten(1, 2).mT)
        hidden = hidden + sinusoids(hidden.shape[1], hidden.shape[2], hidden)
        return self.leave(self.encoder(hidden)).mT


def silence(layer: Layer) -> Layer:
    """The layer, giving 0 until it has learned something."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def sinusoids(frames: int, width: int, like: Tensor) -> Tensor:
    """Positions [frames, width]: sines, then cosines, of falling frequency (Vaswani et al., 2017)."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=like.device) * (-math.log(10_000) / max(1, half - 1)))
    angles = torch.arange(frames, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1).to(like.dtype)
