"""A decoder's matrices as kernels read them: packed, all layers of a kind in one stretch of memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hemiola.kernels import rounding_numba, sixes_numba
from hemiola.kernels.memory import lined
from hemiola.kernels.sixes_numba import GROUP, OUTPUTS
from hemiola.kernels.team_torch import team
from hemiola.kernels.tile_numba import BLOCKS, HALVES, INPUTS, WHOLES, supported
from hemiola.kernels.vectors_numba import LANES
from hemiola.musicgen import products_numba
from hemiola.musicgen.config import DecoderConfig
from hemiola.musicgen.fused_torch import FusedDecoder
from hemiola.musicgen.memory_numba import ByteMemory, Memory
from hemiola.musicgen.products_numba import SIXES, Plain, Sixes
from hemiola.musicgen.step_numba import Weights

_KINDS = {"int8": SIXES, "bfloat16": HALVES, "float32": WHOLES}


def suits(config: DecoderConfig, held: str) -> bool:
    """Whether there are kernels for matrices held so that run on this machine, and suit these sizes."""
    sizes = config.hidden_size, config.ffn_dim, config.num_codebooks * config.vocab_size
    if held == "int8":
        there, unit = sixes_numba.supported(), OUTPUTS
    else:
        there, unit = supported(_KINDS[held]), LANES
    return there and config.head_dim % LANES == 0 and not any(size % unit for size in sizes)


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """One layer's matrix [in, out] among those of all layers."""

    matrices: Sixes | Plain
    layer: int
    outputs: int

    def times(self, hidden: Tensor) -> Tensor:
        """Hidden [rows, in] float32 -> [rows, out]."""
        return self._product(hidden, hidden.new_empty(len(hidden), self.outputs), adding=False)

    def plus_times(self, total: Tensor, hidden: Tensor) -> Tensor:
        """Total [rows, out] + hidden [rows, in] times the matrix."""
        return self._product(hidden, total.clone(memory_format=torch.contiguous_format), adding=True)

    def _product(self, hidden: Tensor, out: Tensor, adding: bool) -> Tensor:
        arguments = self.matrices, self.layer, hidden.contiguous().numpy(), out.numpy(), adding
        team().run(products_numba.product, *arguments)
        return out


class Kernels:
    """A decoder's weights as the kernels read them."""

    def __init__(self, decoder: FusedDecoder, held: str) -> None:
        """Take the matrices of `decoder`, float32 and of a size that `fits`, and leave packed ones in their place.

        `held` is what they are kept in: int8, bfloat16 or float32.
        """
        config = self.config = decoder.config
        self.kind = _KINDS[held]
        layers = decoder.layers
        readers = [layer.reader for layer in layers if layer.reader is not None]
        norms = [
            (each.self_norm, each.reader.norm if each.reader else each.last_norm, each.last_norm) for each in layers
        ]
        music = {name: self._pack(layers, name) for name in ("self_qkv", "self_out", "fc1", "fc2")}
        self.turned = self._turned(readers)
        text = {name: self._pack(readers, name) for name in ("query", "key_value", "out")} if readers else {}
        heads = self._pack([decoder], "heads")
        self.weights = Weights(
            norms=torch.stack([torch.stack([torch.stack(norm) for norm in each]) for each in norms]).numpy(),
            self_qkv=music["self_qkv"],
            self_out=music["self_out"],
            # Where there are no readers, something of the type of what is never read.
            query=text.get("query", music["self_out"]),
            read_out=text.get("out", music["self_out"]),
            fc1=music["fc1"],
            fc2=music["fc2"],
            last_norm=torch.stack(decoder.norm).numpy(),
            heads=heads,
        )
        self.key_value = text.get("key_value", music["self_qkv"])
        for index, layer in enumerate(layers):
            reader = _with(layer.reader, text, index) if layer.reader else None
            layers[index] = replace(_with(layer, music, index), reader=reader)
        decoder.heads = PackedMatrix(heads, 0, config.num_codebooks * config.vocab_size)

    def _turned(self, readers: Sequence[Any]) -> Sixes | None:
        """Queries' matrices turned round, [heads * n, d], to fold a text's keys with; None where nothing is folded."""
        if self.kind != SIXES or not readers or not _folds(self.config):
            return None
        every = [each for reader in readers for each in (reader.query, reader.key_value, reader.out)]
        if not all(bool(each.isfinite().all()) for each in every):
            return None  # folding would lose that they are no numbers
        return _in_sixes([reader.query.t() for reader in readers])

    def _pack(self, layers: Sequence[Any], name: str) -> Sixes | Plain:
        """The matrices [in, out] of that name in all layers."""
        if self.kind == SIXES:
            return _in_sixes([getattr(layer, name) for layer in layers])
        ins, outs = getattr(layers[0], name).shape
        inputs = INPUTS[self.kind]
        packed = lined((len(layers), ins * outs), np.uint16 if self.kind == HALVES else np.float32)
        joined = outs // LANES // BLOCKS * BLOCKS  # blocks that stand side by side
        for index, layer in enumerate(layers):
            weight = getattr(layer, name).t()
            blocks = _numbers(weight.bfloat16() if self.kind == HALVES else weight)
            blocks = blocks.reshape(outs // LANES, LANES, -1, inputs).swapaxes(1, 2)
            beside = blocks[:joined].reshape(-1, BLOCKS, *blocks.shape[1:]).swapaxes(1, 2)
            packed[index, : beside.size] = beside.reshape(-1)
            packed[index, beside.size :] = blocks[joined:].reshape(-1)
        return Plain(packed)

    def projected(self, text: Tensor) -> Tensor:
        """A text [L, d] -> keys and values of it in all layers, [layers, L, 2 * d]."""
        out = text.new_empty(self.config.num_hidden_layers, len(text), 2 * self.config.hidden_size)
        team().run(products_numba.products, self.key_value, text.contiguous().numpy(), out.numpy())
        return out

    def memory(self, first: Sequence[int], stop: Sequence[int], places: int) -> Memory | ByteMemory:
        """Room for keys and values of `places` places, for as many rows as `first` and `stop` say."""
        config, shape = self.config, (self.config.num_hidden_layers, len(first), self.config.num_attention_heads)
        n, blocks = config.head_dim, max(-(-places // LANES), 1)
        inputs = sixes_numba.INPUTS if self.kind == SIXES else INPUTS[self.kind]
        number = {SIXES: np.uint8, HALVES: np.uint16, WHOLES: np.float32}[self.kind]
        keys = lined((*shape, blocks, n // inputs, LANES, inputs), number, zeros=True)
        values = lined((*shape, n // LANES, blocks * LANES // inputs, LANES, inputs), number, zeros=True)
        sides = np.array(first, np.int64), np.array(stop, np.int64)
        if self.kind == SIXES:
            return ByteMemory(keys, values, *sides, *np.zeros((2, *shape, blocks * LANES), np.float32))
        return Memory(keys, values, *sides)


def _folds(config: DecoderConfig) -> bool:
    """Whether six-bit matrices of these sizes can be folded: heads have whole groups, four places of all are blocks."""
    return (
        config.melody is None
        and config.head_dim % GROUP == 0
        and config.num_attention_heads * sixes_numba.INPUTS % LANES == 0
    )


def _in_sixes(matrices: Sequence[Tensor]) -> Sixes:
    """Matrices [in, out], rounded group by group."""
    ins, outs = matrices[0].shape
    packed = lined((len(matrices), sixes_numba.size(outs, ins)), np.uint8)
    units = np.empty((len(matrices), outs), np.float32)
    codes, scales = np.empty((outs, ins), np.uint8), np.empty((outs, ins // GROUP), np.int8)
    for index, matrix in enumerate(matrices):
        weight = matrix.t().contiguous().numpy()
        team().run(rounding_numba.rounded, weight, codes, scales, units[index])
        # Kernels do not look whether a weight is a number: what it is multiplied by says it for all of its output.
        units[index, ~np.isfinite(weight).all(1)] = np.nan
        team().run(rounding_numba.laid_out, codes, scales, packed[index])
    return Sixes(packed, units)


def _with(holder: Any, packed: Mapping[str, Any], index: int) -> Any:
    """A layer or a reader, with packed matrices in place of its own."""
    own = {name: PackedMatrix(each, index, getattr(holder, name).shape[1]) for name, each in packed.items()}
    return replace(holder, **own)


def _numbers(tensor: Tensor) -> np.ndarray:
    """The tensor's own memory; bfloat16, which numpy does not know, as bits."""
    return (tensor.contiguous().view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
