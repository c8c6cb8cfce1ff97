"""Convolutions as compiled products, for PyTorch on a CPU: their weights packed, and a team of threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from hemiola.codec import plan
from hemiola.codec.conv_numba import convolution, side_by_side
from hemiola.codec.norm_numba import group_norm
from hemiola.kernels.memory import lined
from hemiola.kernels.team_torch import counts, team
from hemiola.kernels.tile_numba import WHOLES, supported
from hemiola.kernels.vectors_numba import LANES


def fits(conv: nn.Conv1d | nn.ConvTranspose1d, spec: plan.Conv | plan.ConvTranspose) -> bool:
    """Whether there is a kernel for this layer that runs on this machine."""
    weight = conv.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not supported(WHOLES):
        return False
    # Kernels take every number for one: what is none is left to torch, which passes it on for all to see.
    if not bool((weight.detach().sum() + cast(Tensor, conv.bias).detach().sum()).isfinite()):
        return False
    if isinstance(spec, plan.ConvTranspose):
        return spec.stride * spec.outputs % LANES == 0
    return spec.dilation == 1 and (spec.outputs % LANES == 0 or LANES % spec.outputs == 0)


# What is multiplied [B, ., inputs], in up to so many pieces, one behind the other.
Pieces = tuple[Tensor, ...]
_PIECES = 3


class Packed:
    """A matrix as products read it, and what is added."""

    def __init__(self, taps: Sequence[Tensor], bias: Tensor) -> None:
        """Taps [inputs, outputs], one for each sample of a window, and bias [outputs], a multiple of LANES."""
        inputs, outputs = taps[0].shape
        self.matrix = lined((outputs // LANES, len(taps) * inputs, LANES), np.float32)
        self.bias = bias.detach().numpy()
        block = 0
        while block < len(self.matrix):
            blocks = side_by_side(len(self.matrix) - block)
            target = torch.from_numpy(self.matrix[block : block + blocks].reshape(len(taps), inputs, blocks * LANES))
            for part, tap in zip(target, taps):
                part.copy_(tap[:, block * LANES : (block + blocks) * LANES])
            block += blocks

    def __call__(
        self,
        given: Pieces,
        activated: bool,
        stride: int,
        count: int,
        onto: tuple[Tensor, Tensor] | None = None,
        after: Packed | None = None,
    ) -> Tensor:
        """Windows of what is given times the matrix, and what follows `after` it -> [B, count, outputs].

        What is given [B, ., inputs] comes in up to three pieces, one behind the other, and what it is added to
        [B, ., outputs] in two.
        """
        x, second = given[0], after or _NONE
        outputs = len(self.bias if after is None else after.bias)
        nothing = x.new_empty(len(x), 0, outputs)
        y = x.new_empty(len(x), count, outputs)
        pieces = (*given, *[x[:, :0]] * (_PIECES - len(given)))
        *parts, onto_before, onto_now, out = (
            each.contiguous().numpy() for each in (*pieces, *(onto or (nothing, nothing)), y)
        )
        matrices = self.matrix, self.bias, second.matrix, second.bias
        team().run(convolution, *parts, activated, stride, *matrices, onto_before, onto_now, out)
        return y


_NONE = Packed([torch.empty(1, 0)], torch.empty(0))


class CompiledProduct:
    """A convolution as one matrix product, for what a window reads lies together."""

    def __init__(self, conv: nn.Conv1d, stride: int) -> None:
        outputs, inputs, kernel = conv.weight.shape
        # Few outputs: a row of the product stands for several samples, and each has zeros for the others' windows.
        self.fold = max(1, LANES // outputs)
        self.outputs, self.stride = outputs, stride
        rows = conv.weight.detach().reshape(outputs, -1).t().contiguous().view(inputs, kernel, outputs)
        taps = [rows[:, tap] for tap in range(kernel)]
        if self.fold > 1:
            wide = rows.new_zeros(kernel + (self.fold - 1) * stride, inputs, self.fold, outputs)
            for each in range(self.fold):
                wide[each * stride : each * stride + kernel, :, each] = rows.transpose(0, 1)
            taps = list(wide.flatten(2))
        self.packed = Packed(taps, cast(Tensor, conv.bias).repeat(self.fold))

    def __call__(
        self,
        given: Pieces,
        activated: bool,
        count: int,
        onto: tuple[Tensor, Tensor] | None = None,
        after: CompiledProduct | None = None,
    ) -> Tensor:
        """What is given [B, ., inputs] -> [B, count, outputs], added to `onto`, which comes in two pieces.

        A product of one sample at a time can follow `after` it, and activates what comes to it.
        """
        if self.fold == 1:
            return self.packed(given, activated, self.stride, count, onto, None if after is None else after.packed)
        y = self.packed(given, activated, self.fold * self.stride, -(-count // self.fold))
        y = y.unflatten(2, (self.fold, self.outputs)).flatten(1, 2)[:, :count]
        return y if onto is None else y + torch.cat(onto, dim=1)


def group_normed(x: Tensor, norm: nn.Module, onto: Tensor | None = None) -> Tensor:
    """x [B, T, C], which may be written over, normed if `norm` is a group norm (of all channels), added to `onto`."""
    if not isinstance(norm, nn.GroupNorm):
        return x if onto is None else onto + x
    x = x.contiguous()
    more = x[:0] if onto is None else onto.contiguous()
    found, meetings = np.empty((team().most, len(x), 3)), counts()
    weights = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    team().run(group_norm, x.numpy(), *weights, norm.eps, more.numpy(), found, meetings, counts=meetings)
    return x


class CompiledUpsampling:
    """A transposed convolution as one product, with the frame before and the frame itself, which lie together."""

    def __init__(self, conv: nn.ConvTranspose1d, stride: int) -> None:
        inputs, outputs, _ = conv.weight.shape
        halves = conv.weight.detach().transpose(1, 2).reshape(inputs, 2, stride * outputs)
        self.packed, self.stride = Packed([halves[:, 1], halves[:, 0]], cast(Tensor, conv.bias).repeat(stride)), stride

    def __call__(self, given: Pieces, activated: bool) -> Tensor:
        """What is given [B, ., inputs], n + 1 in pieces, the first the frame before -> [B, n * stride, outputs]."""
        y = self.packed(given, activated, 1, sum(each.shape[1] for each in given) - 1)
        return y.unflatten(-1, (self.stride, -1)).flatten(1, 2)
