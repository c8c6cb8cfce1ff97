"""SEANet's wiring as data: the layers of EnCodec's encoder and decoder, in checkpoint order.

A plan is a tuple of frozen specs, and a spec's index is its number in the checkpoint (`encoder.layers.N`). A backend
builds one module a spec; hop, lengths and reach are computed here from the same list, so they cannot drift from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hemiola.codec.config import EncodecConfig

Span = tuple[int, int]  # the first and the last index of a stretch, both inside it; may run past the edges


@dataclass(frozen=True)
class Conv:
    """A convolution over time, padded so that `length` samples give ceil(length / stride)."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    dilation: int
    left: int  # samples padded before the first
    right: int  # samples padded after the last
    pad_mode: str
    group_norm: bool

    def extra(self, length: int) -> int:
        """Further samples to pad on the right, so that the last, partly filled stride counts."""
        return -length % self.stride

    def output_length(self, length: int) -> int:
        """Samples out for `length` in."""
        return -(-length // self.stride)

    @property
    def window(self) -> int:
        """Samples that one output reads."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def edge(self) -> int:
        """Samples that must be there before either end can be padded, whatever the length turns out to be."""
        widest = max(self.left, self.right + self.stride - 1)
        return widest + 1 if widest and self.pad_mode == "reflect" else 0

    def ready(self, length: int, *, last: bool) -> int:
        """Outputs that `length` padded samples give; until the last, what the end may mirror is kept back."""
        kept = 0 if last else self.stride + min(self.edge, self.right + self.stride)
        return max(0, (length - max(self.window, kept)) // self.stride + 1)

    def reads(self, outputs: Span) -> Span:
        """The inputs that a stretch of outputs is computed from."""
        return _spread(outputs, self.stride, self.window - 1, self.left)

    def moves(self, inputs: Span) -> Span:
        """The outputs that a stretch of inputs has a part in."""
        return _gather(inputs, self.stride, self.window - 1, self.left)


@dataclass(frozen=True)
class ConvTranspose:
    """A transposed convolution over time, trimmed so that `length` samples give length * stride."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    left: int  # samples cut off at the start
    right: int  # samples cut off at the end
    group_norm: bool

    def output_length(self, length: int) -> int:
        """Samples out for `length` in."""
        return length * self.stride

    def reads(self, outputs: Span) -> Span:
        """The inputs that a stretch of outputs is computed from."""
        return _gather(outputs, self.stride, self.kernel - 1, self.left)

    def moves(self, inputs: Span) -> Span:
        """The outputs that a stretch of inputs has a part in."""
        return _spread(inputs, self.stride, self.kernel - 1, self.left)


@dataclass(frozen=True)
class Residual:
    """ELU and convolution, twice, added to the shortcut: another convolution, or None for the input itself."""

    convs: tuple[Conv, Conv]
    shortcut: Conv | None


@dataclass(frozen=True)
class Lstm:
    """A stack of LSTM layers whose output is added to its input."""

    width: int
    layers: int


@dataclass(frozen=True)
class Elu:
    """The activation before a convolution."""


Layer = Conv | ConvTranspose | Residual | Lstm | Elu
Plan = tuple[Layer, ...]


def encoder_plan(config: EncodecConfig) -> Plan:
    """Audio [B, channels, samples] -> latents [B, hidden_size, frames]."""
    width = config.num_filters
    layers: list[Layer] = [_conv(config, config.audio_channels, width, config.kernel_size)]
    for ratio in reversed(config.upsampling_ratios):
        layers += _residuals(config, width)
        layers += [Elu(), _conv(config, width, 2 * width, 2 * ratio, stride=ratio)]
        width *= 2
    layers += [Lstm(width, config.num_lstm_layers), Elu()]
    return (*layers, _conv(config, width, config.hidden_size, config.last_kernel_size))


def decoder_plan(config: EncodecConfig) -> Plan:
    """Latents [B, hidden_size, frames] -> audio [B, channels, frames * hop]."""
    width = config.num_filters * 2 ** len(config.upsampling_ratios)
    layers: list[Layer] = [_conv(config, config.hidden_size, width, config.kernel_size)]
    layers += [Lstm(width, config.num_lstm_layers)]
    for ratio in config.upsampling_ratios:
        layers += [Elu(), _conv_transpose(config, width, width // 2, ratio)]
        width //= 2
        layers += _residuals(config, width)
    return (*layers, Elu(), _conv(config, width, config.audio_channels, config.last_kernel_size))


def is_local(plan: Plan) -> bool:
    """Whether audio can go through in blocks: group norm wants to see the whole."""
    return not any(conv.group_norm for layer in plan for conv in _convs(layer))


def hop(plan: Plan) -> int:
    """Samples a frame: the product of the strides."""
    return math.prod(layer.stride for layer in plan if isinstance(layer, (Conv, ConvTranspose)))


def output_length(plan: Plan, length: int) -> int:
    """What comes out for `length` samples (encoder) or frames (decoder) in."""
    for layer in plan:
        if isinstance(layer, (Conv, ConvTranspose)):
            length = layer.output_length(length)
    return length


def inputs_read(plan: Plan, outputs: Span) -> Span:
    """The inputs that a stretch of outputs is computed from, by the convolutions alone and far from the edges.

    Two layers reach further than any number can say: the LSTM back to the start, group norm over the whole chunk.
    """
    for layer in reversed(plan):
        for conv in _convs(layer)[::-1]:
            outputs = conv.reads(outputs)
    return outputs


def outputs_moved(plan: Plan, inputs: Span) -> Span:
    """The outputs that a stretch of inputs has a part in, by the convolutions alone and far from the edges."""
    for layer in plan:
        for conv in _convs(layer):
            inputs = conv.moves(inputs)
    return inputs


def receptive_field(plan: Plan) -> int:
    """How many inputs one output reads at most: samples for an encoder, frames for a decoder."""
    phases = hop(plan) if _is_decoder(plan) else 1
    spans = (inputs_read(plan, (each, each)) for each in range(phases))
    return max(last - first + 1 for first, last in spans)


def look_ahead_samples(plan: Plan) -> int:
    """Samples of the future that the convolutions want.

    Encoder: how far past the end of a frame its latent reads. Decoder: how many of the last samples that so many
    frames decode to will still change when another frame comes.
    """
    if _is_decoder(plan):
        return max(0, -outputs_moved(plan, (0, 0))[0])
    return max(0, inputs_read(plan, (0, 0))[1] + 1 - hop(plan))


def _is_decoder(plan: Plan) -> bool:
    return any(isinstance(layer, ConvTranspose) for layer in plan)


def _convs(layer: Layer) -> tuple[Conv | ConvTranspose, ...]:
    # A shortcut is one sample wide and its block no narrower: the block alone says how far a residual layer reaches.
    if isinstance(layer, Residual):
        return layer.convs
    return (layer,) if isinstance(layer, (Conv, ConvTranspose)) else ()


def _spread(span: Span, stride: int, reach: int, left: int) -> Span:
    first, last = span
    return first * stride - left, last * stride - left + reach


def _gather(span: Span, stride: int, reach: int, left: int) -> Span:
    first, last = span
    return -(-(first + left - reach) // stride), (last + left) // stride


def _residuals(config: EncodecConfig, width: int) -> Iterator[Residual]:
    hidden = width // config.compress
    for index in range(config.num_residual_layers):
        dilation = config.dilation_growth_rate**index
        convs = (
            _conv(config, width, hidden, config.residual_kernel_size, dilation=dilation),
            _conv(config, hidden, width, 1),
        )
        yield Residual(convs, _conv(config, width, width, 1) if config.use_conv_shortcut else None)


def _conv(config: EncodecConfig, inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> Conv:
    padding = (kernel - 1) * dilation + 1 - stride
    right = 0 if config.use_causal_conv else padding // 2
    group_norm = config.norm_type == "time_group_norm"
    return Conv(inputs, outputs, kernel, stride, dilation, padding - right, right, config.pad_mode, group_norm)


def _conv_transpose(config: EncodecConfig, inputs: int, outputs: int, stride: int) -> ConvTranspose:
    kernel = 2 * stride
    trim = kernel - stride
    right = math.ceil(trim * config.trim_right_ratio) if config.use_causal_conv else trim // 2
    return ConvTranspose(inputs, outputs, kernel, stride, trim - right, right, config.norm_type == "time_group_norm")
