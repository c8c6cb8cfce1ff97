"""SEANet in MLX, block by block: what goes in in pieces comes out as if it were one. Mirrors stream_torch.py.

Each layer keeps what it still needs of the blocks before, and gives what no later block can change. Blocks are
[B, T, C] and T may be 0.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any, cast

import mlx.core as mx
from mlx import nn
from mlx.core import array as Tensor

from hemiola.codec import seanet_mlx as seanet
from hemiola.codec.seanet_mlx import pad


class ConvStream:
    """A convolution, of what is `activated` first or not; it keeps the samples that its next window begins with."""

    def __init__(self, layer: seanet.Conv, activated: bool = False) -> None:
        self.spec, self.norm, self.activated = layer.spec, layer.norm, activated
        self.product = Product(layer.conv, layer.spec.stride, layer.spec.dilation)
        self.held: Tensor | None = None
        self.length = 0
        self.padded = False

    def __call__(self, x: Tensor, last: bool, onto: Tensor | None = None) -> Tensor:
        """x [B, n, inputs] -> [B, m, outputs]: what is final by now, added to `onto` where that is given."""
        spec = self.spec
        self.length += x.shape[1]
        x = joined(self.held, x, self.activated)
        if not self.padded and self.length < spec.edge and not last:
            self.held = x
            return empty(x, spec.outputs)
        left, right = 0 if self.padded else spec.left, spec.right + spec.extra(self.length) if last else 0
        x, self.padded = pad(x, left, right, spec.pad_mode), True
        count = spec.ready(x.shape[1], last=last)
        self.held = kept(x, count * spec.stride)
        if count == 0:
            return empty(x, spec.outputs)
        if spec.group_norm and onto is not None:
            return onto + normed(self.norm, self.product(x, count))
        return normed(self.norm, self.product(x, count, onto))


class ConvTransposeStream:
    """A transposed convolution, of what is `activated` first or not; it keeps a frame, for outputs are made of two."""

    def __init__(self, layer: seanet.ConvTranspose, activated: bool = False) -> None:
        self.spec, self.norm, self.activated = layer.spec, layer.norm, activated
        self.product = Upsampling(layer.conv, layer.spec.stride)
        self.held: Tensor | None = None

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        """x [B, n, inputs] -> [B, m, outputs]: what is final by now."""
        spec, first = self.spec, self.held is None
        if first and x.shape[1] == 0:
            return empty(x, spec.outputs)
        x = joined(mx.zeros((len(x), 1, spec.inputs), x.dtype) if first else self.held, x, self.activated)
        x = pad(x, 0, 1, "constant") if last else x
        self.held = kept(x, x.shape[1] - 1)
        if x.shape[1] == 1:
            return empty(x, spec.outputs)
        y = normed(self.norm, self.product(x))
        return y[:, spec.left if first else 0 : y.shape[1] - (spec.right if last else 0)]


class ResidualStream:
    """Two convolutions with a way around them; it keeps the input that the convolutions have not come to."""

    def __init__(self, layer: seanet.Residual, activated: bool = False) -> None:
        _, first, _, second = cast(Any, layer.block)
        self.first, self.second = ConvStream(first, activated=True), ConvStream(second, activated=True)
        shortcut = layer.shortcut
        self.shortcut = ConvStream(shortcut) if isinstance(shortcut, seanet.Conv) else None
        self.held: Tensor | None = None

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        """x [B, n, width] -> [B, m, width]: what is final by now."""
        y = self.first(x, last)
        x = joined(self.held, x)
        self.held = kept(x, y.shape[1])
        x = x[:, : y.shape[1]]
        return self.second(y, last, x if self.shortcut is None else self.shortcut(x, last))


class LstmStream:
    """A stack of LSTM layers; it keeps their state."""

    def __init__(self, layer: seanet.Lstm, activated: bool = False) -> None:
        self.lstm = layer.lstm
        self.state: list[tuple[Tensor, Tensor]] | None = None

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        """x [B, n, width] -> [B, n, width]."""
        if x.shape[1] == 0:
            return x
        y, after = x, []
        for layer, before in zip(self.lstm, self.state or repeat((None, None))):
            hidden, cell = layer(y, *before)
            y = hidden
            after.append((hidden[:, -1], cell[:, -1]))
        self.state = after
        return x + y


STREAMS: dict[type, Callable[[Any, bool], Callable[[Tensor, bool], Tensor]]] = {
    seanet.Conv: ConvStream,
    seanet.ConvTranspose: ConvTransposeStream,
    seanet.Residual: ResidualStream,
    seanet.Lstm: LstmStream,
}


class SeanetStream:
    """An encoder or a decoder, fed block by block. With group norm, the first block has to be the whole."""

    def __init__(self, network: seanet.Seanet) -> None:
        # An activation goes with the convolution that it is for, which copies its input anyway.
        pairs = zip(network.layers, [None, *network.layers])
        wanted = [
            (layer, isinstance(before, seanet.Elu)) for layer, before in pairs if not isinstance(layer, seanet.Elu)
        ]
        self.steps = [STREAMS[type(layer)](layer, activated) for layer, activated in wanted]

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        """Samples [B, n, channels] -> latents [B, f, D] for an encoder, and back for a decoder: what is final."""
        for step in self.steps:
            x = step(x, last)
        return x


class Product:
    """A convolution, of as many outputs as are asked for."""

    def __init__(self, conv: nn.Conv1d, stride: int, dilation: int) -> None:
        self.conv, self.stride = conv, stride
        self.window = (conv.weight.shape[1] - 1) * dilation + 1

    def __call__(self, x: Tensor, count: int, onto: Tensor | None = None) -> Tensor:
        """x [B, T, inputs] -> [B, count, outputs], added to `onto`."""
        y = self.conv(x[:, : (count - 1) * self.stride + self.window])
        return y if onto is None else y + onto


class Upsampling:
    """A transposed convolution, of the outputs to which both frames are known."""

    def __init__(self, conv: nn.ConvTranspose1d, stride: int) -> None:
        self.conv, self.stride = conv, stride

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, n + 1, inputs], the first of them the frame before -> [B, n * stride, outputs]."""
        return self.conv(x)[:, self.stride : x.shape[1] * self.stride]


def joined(held: Tensor | None, x: Tensor, activated: bool = False) -> Tensor:
    """A block, activated or as it is, after what was held of the blocks before."""
    x = nn.elu(x) if activated else x
    return x if held is None or held.shape[1] == 0 else mx.concatenate([held, x], axis=1)


def kept(x: Tensor, start: int) -> Tensor:
    """What is to be held of a block: a copy, so that the block itself can go."""
    return mx.contiguous(x[:, start:])


def empty(x: Tensor, width: int) -> Tensor:
    """A block in which nothing is final yet."""
    return mx.zeros((len(x), 0, width), x.dtype)


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Group norm has its channels at the end."""
    return norm(x)
