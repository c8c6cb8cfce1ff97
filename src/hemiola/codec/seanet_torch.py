"""SEANet in torch: EnCodec's encoder and decoder, one module a layer of the plan. Mirrors seanet_mlx.py.

Layers read and write [B, C, T]; gradients pass through all of them.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hemiola.codec import plan


class Conv(nn.Module):
    """A convolution over time, padded to a whole number of strides."""

    def __init__(self, spec: plan.Conv) -> None:
        super().__init__()
        self.spec = spec
        self.conv = nn.Conv1d(spec.inputs, spec.outputs, spec.kernel, spec.stride, dilation=spec.dilation)
        self.norm = nn.GroupNorm(1, spec.outputs) if spec.group_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, T] -> [B, outputs, ceil(T / stride)]."""
        left, right = self.spec.left, self.spec.right + self.spec.extra(x.shape[-1])
        return self.norm(self.conv(pad(x, left, right, self.spec.pad_mode)))


class ConvTranspose(nn.Module):
    """A transposed convolution over time, trimmed to whole strides."""

    def __init__(self, spec: plan.ConvTranspose) -> None:
        super().__init__()
        self.spec = spec
        self.conv = nn.ConvTranspose1d(spec.inputs, spec.outputs, spec.kernel, spec.stride)
        self.norm = nn.GroupNorm(1, spec.outputs) if spec.group_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, T] -> [B, outputs, T * stride]."""
        x = self.norm(upsampled(self.conv, x))
        return x[..., self.spec.left : x.shape[-1] - self.spec.right]


class Residual(nn.Module):
    """Two convolutions with a way around them."""

    def __init__(self, spec: plan.Residual) -> None:
        super().__init__()
        first, second = spec.convs
        self.block = nn.ModuleList([nn.ELU(), Conv(first), nn.ELU(), Conv(second)])
        self.shortcut = nn.Identity() if spec.shortcut is None else Conv(spec.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, width, T] -> shortcut(x) + conv(elu(conv(elu(x)))), of the same shape."""
        y = x
        for layer in self.block:
            y = layer(y)
        return self.shortcut(x) + y


class Lstm(nn.Module):
    """A stack of LSTM layers over time with a way around it."""

    def __init__(self, spec: plan.Lstm) -> None:
        super().__init__()
        self.lstm = nn.LSTM(spec.width, spec.width, spec.layers)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, width, T] -> lstm(x) + x, of the same shape."""
        x = x.permute(2, 0, 1)
        # cuDNN refuses backward through an LSTM in eval mode, which is what a frozen codec inside a loss needs.
        frozen = torch.is_grad_enabled() and not self.training
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and not frozen):
            y = self.lstm(x)[0]
        return (y + x).permute(1, 2, 0)


class Elu(nn.ELU):
    """x, or exp(x) - 1 where x is negative."""

    def __init__(self, spec: plan.Elu) -> None:
        super().__init__()


LAYERS: dict[type, type[nn.Module]] = {
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
        self.layers = nn.ModuleList([LAYERS[type(spec)](spec) for spec in specs])

    def forward(self, x: Tensor) -> Tensor:
        """Audio [B, channels, samples] -> latents [B, D, F] for an encoder, and back for a decoder."""
        for layer in self.layers:
            x = layer(x)
        return x


def pad(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """Pad the last axis by `left` and `right`, by reflection or ("constant") zeros."""
    if left == 0 and right == 0:
        return x
    # A reflection needs more samples than it mirrors: a short input gets zeros first, which are cut off again.
    short = max(0, max(left, right) + 1 - x.shape[-1]) if mode == "reflect" else 0
    if short:
        x = functional.pad(x, (0, short))
    x = functional.pad(x, (left, right), mode)
    return x[..., : x.shape[-1] - short] if short else x


def upsampled(conv: nn.ConvTranspose1d, x: Tensor) -> Tensor:
    """What `conv` makes of x [B, inputs, T], [B, outputs, (T + 1) * stride], in half the time that it takes on a CPU.

    The kernel spans two strides, so each stride of outputs is one matrix times a frame and the frame before it.
    """
    inputs, outputs, kernel = conv.weight.shape
    stride = kernel // 2
    halves = conv.weight.view(inputs, outputs, 2, stride)
    matrix = halves.permute(3, 1, 2, 0).reshape(stride * outputs, 2 * inputs)
    frames = functional.pad(x.mT, (0, 0, 1, 1))
    pairs = torch.cat([frames[:, 1:], frames[:, :-1]], dim=-1)
    y = functional.linear(pairs, matrix, cast(Tensor, conv.bias).repeat(stride))
    return y.unflatten(-1, (stride, outputs)).flatten(1, 2).mT
