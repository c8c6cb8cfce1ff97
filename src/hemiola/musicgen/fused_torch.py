"""The decoder's weights in PyTorch as a step of decoding reads them: fewer and larger products, the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hemiola.musicgen import chroma
from hemiola.musicgen.config import DecoderConfig
from hemiola.musicgen.int8_torch import Int8Matrix, Packed
from hemiola.weights import keys

NORM_EPSILON = 1e-5

Matrix = Tensor | Packed  # [in, out]
Norm = tuple[Tensor, Tensor]  # weight and bias


@dataclass(frozen=True, eq=False)
class FusedReader:
    """One layer's attention to the text; its keys and values lie in one matrix."""

    norm: Norm
    query: Matrix
    key_value: Matrix
    out: Matrix


@dataclass(frozen=True, eq=False)
class FusedLayer:
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


class FusedDecoder:
    """All weights of a decoder, laid out for steps."""

    def __init__(self, config: DecoderConfig, tensors: Mapping[str, Tensor]) -> None:
        self.config = config
        stack = keys.under(tensors, "model.decoder.")
        books = range(config.num_codebooks)
        self.embeddings = torch.concatenate([stack[f"embed_tokens.{k}.weight"] for k in books])
        self.heads: Matrix = _matrix([tensors[f"lm_heads.{k}.weight"] for k in books])
        self.offsets = torch.arange(config.num_codebooks, device=self.embeddings.device) * (config.vocab_size + 1)
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
        rows = _projected(torch.tensor(tune, device=like.device), self.melody_projection, like)
        words = like.new_zeros(length, config.hidden_size) if states is None else self.project(states)
        return torch.concatenate([rows, words])


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
    return (torch.concatenate(weights) if len(weights) > 1 else weights[0]).t()


def _norm(weight: Tensor, bias: Tensor) -> Norm:
    return weight, bias


def _projected(states: Tensor, projection: Mapping[str, Tensor], like: Tensor) -> Tensor:
    states = states.to(like)
    return F.linear(states, projection["weight"], projection["bias"]) if projection else states


def normed(hidden: Tensor, norm: Norm) -> Tensor:
    """Layer norm over the last axis."""
    return F.layer_norm(hidden, hidden.shape[1:], *norm, NORM_EPSILON)


def times(hidden: Tensor, matrix: Matrix) -> Tensor:
    """Hidden [n, in] -> [n, out]."""
    return hidden @ matrix if isinstance(matrix, Tensor) else matrix.times(hidden)


def plus_times(total: Tensor, hidden: Tensor, matrix: Matrix) -> Tensor:
    """A residual sum, made by the product itself."""
    if isinstance(matrix, Tensor):
        return torch.addmm(total, hidden, matrix)
    return matrix.plus_times(total, hidden)


def quantize(decoder: FusedDecoder) -> None:
    """Keep the matrices of every step in 8 bits; embeddings, norms and the text projection stay as they are."""
    for index, layer in enumerate(decoder.layers):
        decoder.layers[index] = _packed(layer)
    decoder.heads = _packed(decoder.heads)


def _packed(weights: Any, activated: bool = False) -> Any:
    if isinstance(weights, Tensor):
        return Int8Matrix(weights.t(), activated)
    if isinstance(weights, (FusedLayer, FusedReader)):
        return type(weights)(**{name: _packed(each, name == "fc2") for name, each in vars(weights).items()})
    return weights  # norms, and a reader that is not there
