"""SEANet in MLX: EnCodec's encoder and decoder, one module a layer of the plan. Mirrors seanet_torch.py.

Layers have their channels last, as MLX has: what is [B, C, T] in torch is [B, T, C].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.core import array as Tensor

from hemiola.codec import plan


class Conv(nn.Module):
    """A convolution over time, padded to a whole number of strides."""

    def __init__(self, spec: plan.Conv) -> None:
        super().__init__()
        self.spec = spec
        self.conv = nn.Conv1d(spec.inputs, spec.outputs, spec.kernel, spec.stride, dilation=spec.dilation)
        self.norm = nn.GroupNorm(1, spec.outputs) if spec.group_norm else nn.Identity()

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, T, inputs] -> [B, ceil(T / stride), outputs]."""
        left, right = self.spec.left, self.spec.right + self.spec.extra(x.shape[1])
        return self.norm(self.conv(pad(x, left, right, self.spec.pad_mode)))


class ConvTranspose(nn.Module):
    """A transposed convolution over time, trimmed to whole strides."""

    def __init__(self, spec: plan.ConvTranspose) -> None:
        super().__init__()
        self.spec = spec
        self.conv = nn.ConvTranspose1d(spec.inputs, spec.outputs, spec.kernel, spec.stride)
        self.norm = nn.GroupNorm(1, spec.outputs) if spec.group_norm else nn.Identity()

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, T, inputs] -> [B, T * stride, outputs]."""
        x = self.norm(self.conv(x))
        return x[:, self.spec.left : x.shape[1] - self.spec.right]


class Residual(nn.Module):
    """Two convolutions with a way around them."""

    def __init__(self, spec: plan.Residual) -> None:
        super().__init__()
        first, second = spec.convs
        self.block = [nn.ELU(), Conv(first), nn.ELU(), Conv(second)]
        self.shortcut = nn.Identity() if spec.shortcut is None else Conv(spec.shortcut)

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, T, width] -> shortcut(x) + conv(elu(conv(elu(x)))), of the same shape."""
        y = x
        for layer in self.block:
            y = layer(y)
        return self.shortcut(x) + y


class Lstm(nn.Module):
    """A stack of LSTM layers over time with a way around it."""

    def __init__(self, spec: plan.Lstm) -> None:
        super().__init__()
        self.lstm = [nn.LSTM(spec.width, spec.width) for _ in range(spec.layers)]

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, T, width] -> lstm(x) + x, of the same shape."""
        y = x
        for layer in self.lstm:
            y = layer(y)[0]
        return y + x


class Elu(nn.ELU):
    """x, or exp(x) - 1 where x is negative."""

    def __init__(self, spec: plan.Elu) -> None:
        super().__init__()


LAYERS: dict[type, Callable[[Any], nn.Module]] = {
    plan.Conv: Conv,
    plan.ConvTranspose: ConvTranspose,
    plan.Residual: Residual,
    plan.Lstm: Lstm,
    plan.Elu: Elu,
}


class Seanet(nn.Module):
    """A plan, built and run in order."""

    def __init__(self, specs: plan.Plan) -> None:
        super().__init__()
        self.layers = [LAYERS[type(spec)](spec) for spec in specs]

    def __call__(self, x: Tensor) -> Tensor:
        """Audio [B, samples, channels] -> latents [B, F, D] for an encoder, and back for a decoder."""
        for layer in self.layers:
            x = layer(x)
        return x


def pad(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """Pad the axis of time by `left` and `right`, by reflection or ("constant") zeros."""
    if left == 0 and right == 0:
        return x
    if mode != "reflect":
        return mx.pad(x, [(0, 0), (left, right), (0, 0)])
    # A reflection needs more samples than it mirrors: a short input gets zeros first, which are cut off again.
    short = max(0, max(left, right) + 1 - x.shape[1])
    if short:
        x = mx.pad(x, [(0, 0), (0, short), (0, 0)])
    length = x.shape[1]
    before, after = x[:, 1 : left + 1][:, ::-1], x[:, length - 1 - right : length - 1][:, ::-1]
    x = mx.concatenate([before, x, after], axis=1)
    return x[:, : x.shape[1] - short] if short else x
