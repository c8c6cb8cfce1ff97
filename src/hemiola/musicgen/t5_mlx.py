"""T5's encoder in MLX, under Hugging Face's names: token ids in, one vector a token out."""

from __future__ import annotations

import math

import mlx.core as mx
from mlx import nn
from mlx.core import array as Tensor

from hemiola.musicgen.config import T5Config


class RMSNorm(nn.Module):
    """Scale to unit mean square, without mean or bias; the square is taken in float32."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = mx.ones(width)
        self.epsilon = epsilon

    def __call__(self, hidden: Tensor) -> Tensor:
        """Hidden [..., width] -> the same shape."""
        power = hidden.astype(mx.float32).square().mean(-1, keepdims=True)
        return self.weight * (hidden * mx.rsqrt(power + self.epsilon)).astype(self.weight.dtype)


class SelfAttention(nn.Module):
    """Attention whose scores are not scaled but carry a learned bias for each distance."""

    def __init__(self, config: T5Config, has_bias: bool) -> None:
        super().__init__()
        width = config.num_heads * config.d_kv
        self.config = config
        self.q = nn.Linear(config.d_model, width, bias=False)
        self.k = nn.Linear(config.d_model, width, bias=False)
        self.v = nn.Linear(config.d_model, width, bias=False)
        self.o = nn.Linear(width, config.d_model, bias=False)
        if has_bias:
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    def bias(self, length: int) -> Tensor:
        """The bias for every pair of places, [1, heads, length, length]."""
        places = mx.arange(length)
        buckets = distance_buckets(
            places[None, :] - places[:, None],
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
        )
        return self.relative_attention_bias(buckets).transpose(2, 0, 1)[None]

    def __call__(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Hidden [B, L, d] and bias [B or 1, heads, L, L] -> [B, L, d]."""
        batch, length, _ = hidden.shape
        shape = (batch, length, self.config.num_heads, self.config.d_kv)
        q, k, v = (project(hidden).reshape(shape).swapaxes(1, 2) for project in (self.q, self.k, self.v))
        mixed = mx.fast.scaled_dot_product_attention(q, k, v, mask=bias, scale=1.0)
        return self.o(mixed.swapaxes(1, 2).reshape(batch, length, -1))


class DenseReluDense(nn.Module):
    """The feed-forward layer: ReLU, or tanh-GELU with a gate, as `feed_forward_proj` says."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.is_gated = config.is_gated
        if self.is_gated:
            self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Hidden [B, L, d] -> the same shape."""
        if self.is_gated:
            return self.wo(nn.gelu_approx(self.wi_0(hidden)) * self.wi_1(hidden))
        return self.wo(nn.relu(self.wi(hidden)))


class AttentionLayer(nn.Module):
    """Norm, attention, sum."""

    def __init__(self, config: T5Config, has_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(config, has_bias)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def __call__(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Hidden [B, L, d] -> the same shape."""
        return hidden + self.SelfAttention(self.layer_norm(hidden), bias)


class FeedForwardLayer(nn.Module):
    """Norm, feed-forward, sum."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = DenseReluDense(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Hidden [B, L, d] -> the same shape."""
        return hidden + self.DenseReluDense(self.layer_norm(hidden))


class Block(nn.Module):
    """One layer of the encoder: attention, then feed-forward."""

    def __init__(self, config: T5Config, has_bias: bool) -> None:
        super().__init__()
        self.layer = [AttentionLayer(config, has_bias), FeedForwardLayer(config)]

    def bias(self, length: int) -> Tensor:
        """The distance bias, [1, heads, length, length]; the first block alone has one."""
        return self.layer[0].SelfAttention.bias(length)

    def __call__(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Hidden [B, L, d] -> the same shape."""
        return self.layer[1](self.layer[0](hidden, bias))


class Stack(nn.Module):
    """All blocks; the first one's distance bias serves every one."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.block = [Block(config, has_bias=index == 0) for index in range(config.num_layers)]
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Hidden [B, L, d] and mask [B, L] -> [B, L, d]."""
        bias = self.block[0].bias(hidden.shape[1])
        bias = mx.where(mask.astype(mx.bool_)[:, None, None, :], bias, mx.finfo(bias.dtype).min)
        for block in self.block:
            hidden = block(hidden, bias)
        return self.final_layer_norm(hidden)


class T5Encoder(nn.Module):
    """Text tokens to text states."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config)

    def __call__(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Tokens [B, L] and mask [B, L] (0 where padded) -> states [B, L, d_model]; those of padding mean nothing."""
        return self.encoder(self.shared(tokens), mask)


def distance_buckets(distance: Tensor, buckets: int, furthest: int) -> Tensor:
    """Sort signed distances into buckets: half for each direction, near ones exact, far ones by their logarithm."""
    half = buckets // 2
    exact = half // 2
    away = mx.abs(distance)
    ratio = mx.log(mx.maximum(away, 1).astype(mx.float32) / exact) / math.log(furthest / exact)
    # A hair more: a device whose logarithm falls short of a whole number must not move a distance by a bucket.
    far = mx.minimum(exact + (ratio * (half - exact) + 1e-5).astype(mx.int32), half - 1)
    return mx.where(away < exact, away, far) + half * (distance > 0)
