"""Layers of a stream whose convolutions are compiled products: what a layer holds is as it came, and is not joined.

A convolution reads what was held and what came as two pieces, and activates them on its way. Nothing is copied but
what is held, and the ends where they are padded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from hemiola.codec import seanet_torch as seanet
from hemiola.codec.conv_compiled_torch import CompiledProduct, CompiledUpsampling, Pieces, fits, group_normed
from hemiola.codec.kernels_torch import pad
from hemiola.codec.packing_torch import made_of
from hemiola.codec.stream_torch import ConvStream, ConvTransposeStream, ResidualStream, empty, joined
from hemiola.kernels.vectors_numba import LANES


class CompiledConvStream(ConvStream):
    """A convolution that `fits`; it holds what is not activated yet."""

    def __init__(self, layer: seanet.Conv, activated: bool = False) -> None:
        self.spec, self.norm, self.activated = layer.spec, layer.norm, activated
        self.compiled = made_of(layer.conv, CompiledProduct, layer.spec.stride)
        self.held: Tensor | None = None
        self.length = 0
        self.padded = False

    def __call__(self, x: Tensor, last: bool, onto: Tensor | None = None) -> Tensor:
        """x [B, n, inputs] -> [B, m, outputs]: what is final by now, added to `onto` where that is given."""
        given, count = self.taken(x, last)
        if count == 0:
            return empty(x, self.spec.outputs)
        return group_normed(self.compiled(given, self.activated, count), self.norm, onto)

    def taken(self, x: Tensor, last: bool) -> tuple[Pieces, int]:
        """What is to be multiplied when x [B, n, inputs] has come, in pieces, and how many outputs that gives."""
        spec = self.spec
        self.length += x.shape[1]
        if not self.padded and self.length < spec.edge and not last:
            self.held = joined(self.held, x)
            return (x,), 0
        before, after = empty(x, spec.inputs) if self.held is None else self.held, empty(x, spec.inputs)
        left, right = 0 if self.padded else spec.left, spec.right + spec.extra(self.length) if last else 0
        if x.shape[1] <= left + right:
            before, x = empty(x, spec.inputs), pad(joined(before, x), left, right, spec.pad_mode)
        elif left or right:
            # Only the ends are copied. What is held before anything was padded is short.
            x = x if self.padded else joined(before, x)
            start, after = edges(x, left, right, spec.pad_mode)
            before = before if self.padded else start
        self.padded = True
        count = spec.ready(before.shape[1] + x.shape[1] + after.shape[1], last=last)
        self.held = behind(before, x, count * spec.stride)
        return (before, x, after), count


class CompiledConvTransposeStream(ConvTransposeStream):
    """A transposed convolution that `fits`; it holds a frame that is not activated yet."""

    def __init__(self, layer: seanet.ConvTranspose, activated: bool = False) -> None:
        self.spec, self.norm, self.activated = layer.spec, layer.norm, activated
        self.compiled = made_of(layer.conv, CompiledUpsampling, layer.spec.stride)
        self.held: Tensor | None = None

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        """x [B, n, inputs] -> [B, m, outputs]: what is final by now."""
        spec, first = self.spec, self.held is None
        if first and x.shape[1] == 0:
            return empty(x, spec.outputs)
        before = x.new_zeros(len(x), 1, spec.inputs) if self.held is None else self.held
        x = pad(x, 0, 1, "constant") if last else x
        self.held = behind(before, x, x.shape[1])
        if x.shape[1] == 0:
            return empty(x, spec.outputs)
        y = group_normed(self.compiled((before, x), self.activated), self.norm)
        return y[:, spec.left if first else 0 : y.shape[1] - (spec.right if last else 0)]


class NormedResidualStream(ResidualStream):
    """Two convolutions that fit and are normed, with a way around them."""

    def __init__(self, layer: seanet.Residual, activated: bool = False) -> None:
        _, first, _, second = cast(Any, layer.block)
        self.first, self.second = CompiledConvStream(first, activated=True), CompiledConvStream(second, activated=True)
        shortcut = layer.shortcut
        self.shortcut = CompiledConvStream(shortcut) if isinstance(shortcut, seanet.Conv) else None
        self.held: Tensor | None = None


class CompiledResidualStream(NormedResidualStream):
    """The same without norms, both convolutions in one call; what goes around is not copied."""

    first: Any
    second: Any
    shortcut: Any

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        """x [B, n, width] -> [B, m, width]: what is final by now."""
        given, count = self.first.taken(x, last)
        before = empty(x, x.shape[2]) if self.held is None else self.held
        self.held = behind(before, x, count)
        if count == 0:
            return empty(x, x.shape[2])
        around = before, x[:, : max(0, count - before.shape[1])]
        if self.shortcut is not None:
            around = empty(x, x.shape[2]), self.shortcut.compiled(around, False, count)
        return self.first.compiled(given, True, count, around, self.second.compiled)


def edges(x: Tensor, left: int, right: int, mode: str) -> tuple[Tensor, Tensor]:
    """What `pad` puts before and behind x [B, n, C], which is longer than both."""
    if mode != "reflect":
        return x.new_zeros(len(x), left, x.shape[2]), x.new_zeros(len(x), right, x.shape[2])
    length = x.shape[1]
    return x[:, 1 : left + 1].flip(1), x[:, length - 1 - right : length - 1].flip(1)


def behind(before: Tensor, x: Tensor, start: int) -> Tensor:
    """The rows from `start` of `before` and x, one behind the other: a copy, so that the blocks can go."""
    past = start - before.shape[1]
    return x[:, past:].clone() if past >= 0 else torch.cat([before[:, start:], x], dim=1)


def _conv(layer: seanet.Conv, activated: bool = False) -> ConvStream:
    return (CompiledConvStream if made_of(layer.conv, fits, layer.spec) else ConvStream)(layer, activated)


def _conv_transpose(layer: seanet.ConvTranspose, activated: bool = False) -> ConvTransposeStream:
    return (CompiledConvTransposeStream if made_of(layer.conv, fits, layer.spec) else ConvTransposeStream)(
        layer, activated
    )


def _residual(layer: seanet.Residual, activated: bool = False) -> ResidualStream:
    convs = [each for each in layer.modules() if isinstance(each, seanet.Conv)]
    if not all(made_of(each.conv, fits, each.spec) for each in convs):
        return ResidualStream(layer, activated)
    alone = all(each.spec.kernel == 1 for each in convs[1:]) and convs[0].spec.outputs % LANES == 0
    normed = any(each.spec.group_norm for each in convs)
    return (CompiledResidualStream if alone and not normed else NormedResidualStream)(layer, activated)


STREAMS: dict[type, Callable[[Any, bool], Callable[[Tensor, bool], Tensor]]] = {
    seanet.Conv: _conv,
    seanet.ConvTranspose: _conv_transpose,
    seanet.Residual: _residual,
}
