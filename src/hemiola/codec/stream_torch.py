"""SEANet in torch, block by block: what goes in in pieces comes out as if it were one. Mirrors stream_mlx.py.

Each layer keeps what it still needs of the blocks before, and gives what no later block can change. Blocks are
[B, T, C] and T may be 0. For inference only: weights are laid out once, as they are when a stream begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from hemiola.codec import seanet_torch as seanet
from hemiola.codec.kernels_torch import elu, one_group_normed, pad, summed
from hemiola.codec.lstm_torch import State, steps_of
from hemiola.kernels.presence import needing_numba

# A smaller network is done before kernels are loaded: from so many channels next to the audio on they are worth it.
COMPILED_FROM = 32


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
        x = joined(x.new_zeros(len(x), 1, spec.inputs) if first else self.held, x, self.activated)
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
        self.lstm = steps_of(layer.lstm)
        self.state: State | None = None

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        """x [B, n, width] -> [B, n, width]."""
        if x.shape[1] == 0:
            return x
        y, self.state = self.lstm(x.transpose(0, 1).contiguous(), self.state)
        return x + y.transpose(0, 1)


STREAMS: dict[type, Callable[[Any, bool], Callable[[Tensor, bool], Tensor]]] = {
    seanet.Conv: ConvStream,
    seanet.ConvTranspose: ConvTransposeStream,
    seanet.Residual: ResidualStream,
    seanet.Lstm: LstmStream,
}


def quickest(network: seanet.Seanet) -> dict[type, Callable[[Any, bool], Callable[[Tensor, bool], Tensor]]]:
    """Streams by kinds of layers, whose convolutions are compiled where there are kernels for the network."""
    specs = [layer.spec for layer in network.layers if isinstance(layer, (seanet.Conv, seanet.ConvTranspose))]
    first = next(network.parameters())
    if (first.device.type, first.dtype) != ("cpu", torch.float32):
        return STREAMS
    if min(max(spec.inputs, spec.outputs) for spec in specs) < COMPILED_FROM:
        return STREAMS
    compiled = needing_numba("hemiola.codec.stream_compiled_torch", "torch carries out a codec's convolutions")
    return STREAMS if compiled is None else {**STREAMS, **compiled.STREAMS}


class SeanetStream:
    """An encoder or a decoder, fed block by block. With group norm, the first block has to be the whole.

    With `tile` and `deep`, in frames, a decoder is fed `deep` of them and an encoder `tile`; the layers at the
    frame rate and beside it see `deep` at once and all others `tile`, so that what is wide fits a cache and large
    weights are read for many frames. Blocks then come out late: it is for what is there as a whole.
    """

    def __init__(self, network: seanet.Seanet, tile: int | None = None, deep: int | None = None) -> None:
        # An activation goes with the convolution that it is for, which copies its input anyway.
        pairs = zip(network.layers, [None, *network.layers])
        wanted = [
            (layer, isinstance(before, seanet.Elu)) for layer, before in pairs if not isinstance(layer, seanet.Elu)
        ]
        streams = quickest(network)
        self.steps = [streams[type(layer)](layer, activated) for layer, activated in wanted]
        if tile is not None and deep is not None:
            self.steps = parted(self.steps, tile, deep)

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        """Samples [B, n, channels] -> latents [B, f, D] for an encoder, and back for a decoder: what is final."""
        return run(self.steps, x, last)


Step = Callable[[Tensor, bool], Tensor]


def run(steps: Sequence[Step], x: Tensor, last: bool) -> Tensor:
    """One step after the other."""
    for step in steps:
        x = step(x, last)
    return x


def parted(steps: list[Step], tile: int, deep: int) -> list[Step]:
    """Steps of an encoder or a decoder, the deepest of which see `deep` frames at once, and the others `tile`."""
    for place, step in enumerate(steps):
        if isinstance(step, ConvTransposeStream):
            return [*steps[: place + 1], InTiles(steps[place + 1 :], tile * step.spec.stride)]
    for place in reversed(range(len(steps))):
        step = steps[place]
        if isinstance(step, ConvStream) and step.spec.stride > 1:
            return [*steps[:place], Gathered(deep * step.spec.stride), *steps[place:]]
    return steps


class Gathered:
    """Holds blocks back until `rows` of them are there."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.held: list[Tensor] = []

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        """x [B, n, width] -> all that is held [B, m, width], or nothing yet."""
        self.held.append(x)
        if not last and sum(each.shape[1] for each in self.held) < self.rows:
            return empty(x, x.shape[2])
        together, self.held = torch.cat(self.held, dim=1), []
        return together


class InTiles:
    """Steps that see `rows` at once of a block, one tile after another."""

    def __init__(self, steps: Sequence[Step], rows: int) -> None:
        self.steps, self.rows = steps, rows

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        """x [B, n, width] -> what is final by now of the steps' outputs."""
        *tiles, end = x.split(self.rows, dim=1)
        return torch.cat([*(run(self.steps, tile, False) for tile in tiles), run(self.steps, end, last)], dim=1)


class Product:
    """A convolution as a sum of matrix products, one a tap, over rows of `stride` samples each."""

    def __init__(self, conv: nn.Conv1d, stride: int, dilation: int) -> None:
        outputs, inputs, kernel = conv.weight.shape
        # In two copies, of which the second moves whole rows: a fifth of the time of one.
        rows = conv.weight.detach().reshape(outputs, -1).t().contiguous().view(inputs, kernel, outputs)
        taps = rows.transpose(0, 1).reshape(kernel // stride, stride * inputs, outputs)
        self.taps, self.bias, self.stride, self.dilation = taps, conv.bias, stride, dilation

    def __call__(self, x: Tensor, count: int, onto: Tensor | None = None) -> Tensor:
        """x [B, T, inputs] -> [B, count, outputs], added to `onto`, which may be written over."""
        rows = count + len(self.taps) - 1 if self.stride > 1 else x.shape[1]
        x = x[:, : rows * self.stride].unflatten(1, (-1, self.stride)).flatten(2)
        return summed(x, self.taps, cast(Tensor, self.bias), self.dilation, count, onto)


class Upsampling:
    """A transposed convolution as two products: with the frame before, and with the frame itself."""

    def __init__(self, conv: nn.ConvTranspose1d, stride: int) -> None:
        inputs, outputs, _ = conv.weight.shape
        halves = conv.weight.detach().transpose(1, 2).reshape(inputs, 2, stride * outputs)
        self.taps, self.stride = torch.stack([halves[:, 1], halves[:, 0]]), stride
        self.bias = cast(Tensor, conv.bias).repeat(stride)

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, n + 1, inputs], the first of them the frame before -> [B, n * stride, outputs]."""
        y = summed(x, self.taps, self.bias, 1, x.shape[1] - 1, None)
        return y.unflatten(-1, (self.stride, -1)).flatten(1, 2)


def joined(held: Tensor | None, x: Tensor, activated: bool = False) -> Tensor:
    """A block, activated or as it is, after what was held of the blocks before."""
    before = 0 if held is None else held.shape[1]
    if not activated and before == 0:
        return x
    y = x.new_empty(len(x), before + x.shape[1], x.shape[-1])
    if held is not None:
        y[:, :before] = held
    if activated:
        elu(x, y[:, before:])
    else:
        y[:, before:] = x
    return y


def kept(x: Tensor, start: int) -> Tensor:
    """What is to be held of a block: a copy, so that the block itself can go."""
    return x[:, start:].clone()


def empty(x: Tensor, width: int) -> Tensor:
    """A block in which nothing is final yet."""
    return x.new_empty(len(x), 0, width)


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Group norm has its channels in the middle; x may be written over."""
    return one_group_normed(x, norm) if isinstance(norm, nn.GroupNorm) else x
