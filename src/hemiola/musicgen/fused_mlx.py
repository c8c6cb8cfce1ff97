"""The decoder's weights in MLX as a step of decoding reads them: fewer and larger products, the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.core import array as Tensor

from hemiola.errors import BackendError
from hemiola.musicgen import chroma
from hemiola.musicgen.config import DecoderConfig
from hemiola.weights import keys

NORM_EPSILON = 1e-5
# So many weights of a row share a scale when they are quantised: the more, the smaller; all must be full.
GROUP_SIZES = (64, 32)


Matrix = nn.Linear
Norm = nn.LayerNorm


@dataclass(eq=False, repr=False)
class FusedReader(nn.Module):
    """One layer's attention to the text; its keys and values lie in one matrix."""

    norm: Norm
    query: Matrix
    key_value: Matrix
    out: Matrix


@dataclass(eq=False, repr=False)
class FusedLayer(nn.Module):
    """One layer's weights; queries, keys and values of the self-attention lie in one matrix.

    There is no reader where the text stands before the music.
    """

    self_norm: Norm
    self_qkv: Matrix
    self_out: Matrix
    reader: FusedReader | None
    last_norm: Norm
    fc1: Matrix
    fc2: Matrix


class FusedDecoder(nn.Module):
    """All weights of a decoder, laid out for steps."""

    def __init__(self, config: DecoderConfig, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.config = config
        stack = keys.under(tensors, "model.decoder.")
        books = range(config.num_codebooks)
        self.embeddings = mx.concatenate([stack[f"embed_tokens.{k}.weight"] for k in books])
        self.heads = _matrix([tensors[f"lm_heads.{k}.weight"] for k in books])
        self.offsets = mx.arange(config.num_codebooks) * (config.vocab_size + 1)
        self.layers = [_fuse(keys.under(stack, f"layers.{index}.")) for index in range(config.num_hidden_layers)]
        self.norm = _norm(stack["layer_norm.weight"], stack["layer_norm.bias"])
        self.projection = keys.under(tensors, "enc_to_dec_proj.")
        self.melody_projection = keys.under(tensors, "audio_enc_to_dec_proj.")

    def project(self, states: Tensor) -> Tensor:
        """Text states [L, text_width] -> [L, d]."""
        return _projected(states, self.projection, self.embeddings)

    def opening(self, states: Tensor | None, length: int, melody: np.ndarray | None) -> Tensor:
        """What stands before the music of a melody model, [chroma_length + L, d]: rows for the tune, then the text.

        No text is `length` rows of zeros.
        """
        config, like = self.config, self.embeddings
        assert config.melody is not None
        tune = chroma.null(config.melody) if melody is None else melody
        rows = _projected(mx.array(tune), self.melody_projection, like)
        words = mx.zeros((length, config.hidden_size), like.dtype) if states is None else self.project(states)
        return mx.concatenate([rows, words])


def _fuse(layer: Mapping[str, Tensor]) -> FusedLayer:
    def norm(name: str) -> Norm:
        return _norm(layer[f"{name}.weight"], layer[f"{name}.bias"])

    def joined(attention: str, parts: str) -> Matrix:
        return _matrix([layer[f"{attention}.{part}_proj.weight"] for part in parts])

    reader = None
    if "encoder_attn.q_proj.weight" in layer:
        reader = FusedReader(
            norm=norm("encoder_attn_layer_norm"),
            query=_matrix([layer["encoder_attn.q_proj.weight"]]),
            key_value=joined("encoder_attn", "kv"),
            out=_matrix([layer["encoder_attn.out_proj.weight"]]),
        )
    return FusedLayer(
        self_norm=norm("self_attn_layer_norm"),
        self_qkv=joined("self_attn", "qkv"),
        self_out=_matrix([layer["self_attn.out_proj.weight"]]),
        reader=reader,
        last_norm=norm("final_layer_norm"),
        fc1=_matrix([layer["fc1.weight"]]),
        fc2=_matrix([layer["fc2.weight"]]),
    )


def _matrix(weights: list[Tensor]) -> Matrix:
    """One matrix that gives the outputs of several weights [out, in], one after the other."""
    weight = mx.concatenate(weights) if len(weights) > 1 else weights[0]
    matrix = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    # The BLAS that serves the CPU is faster on a matrix that lies [in, out] in memory; a GPU takes it as it comes.
    matrix.weight = mx.contiguous(weight.T).T if mx.default_device() == mx.cpu else weight
    return matrix


def _norm(weight: Tensor, bias: Tensor) -> Norm:
    norm = nn.LayerNorm(len(weight), NORM_EPSILON)
    norm.weight, norm.bias = weight, bias
    return norm


def _projected(states: Tensor, projection: Mapping[str, Tensor], like: Tensor) -> Tensor:
    states = states.astype(like.dtype)
    return mx.addmm(projection["bias"], states, projection["weight"].T) if projection else states


def normed(hidden: Tensor, norm: Norm) -> Tensor:
    """Layer norm over the last axis."""
    return norm(hidden)


def times(hidden: Tensor, matrix: Matrix) -> Tensor:
    """Hidden [n, in] -> [n, out]."""
    return matrix(hidden)


def plus_times(total: Tensor, hidden: Tensor, matrix: Matrix) -> Tensor:
    """A residual sum."""
    return total + matrix(hidden)


def quantize(decoder: FusedDecoder, bits: int) -> None:
    """Keep the matrices of every step in `bits` bits; embeddings, norms and the text projection stay as they are."""
    widths = (decoder.config.hidden_size, decoder.config.ffn_dim)
    group_size = next((size for size in GROUP_SIZES if not any(width % size for width in widths)), None)
    if group_size is None:
        raise BackendError(f"a decoder {widths[0]} wide cannot be quantised: leave out --quantize")

    nn.quantize(decoder, group_size, bits)
