"""A decoder in compiled kernels, for PyTorch on a CPU: its matrices packed, and steps that a team of threads takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hemiola.backend import Backend
from hemiola.kernels import rounding_numba, sixes_layout, sixes_numba
from hemiola.kernels.memory import LINE, lined
from hemiola.kernels.sixes_numba import GROUP, LINES, OUTPUTS
from hemiola.kernels.team_torch import counts, team
from hemiola.kernels.tile_numba import BLOCKS, GROUP_BYTES, HALVES, INPUTS, WHOLES, supported
from hemiola.kernels.vectors_numba import LANES
from hemiola.musicgen import products_numba, step_numba
from hemiola.musicgen.batch import Batch
from hemiola.musicgen.choosing_numba import Choice
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.fused_torch import FusedDecoder
from hemiola.musicgen.products_numba import SIXES, Plain, Sixes
from hemiola.musicgen.sampling import Sampling
from hemiola.musicgen.session_torch import Engine, Session
from hemiola.musicgen.step_numba import Board, Memory, Weights

_AT_ONCE = 8  # steps, between which nobody can say stop
_KINDS = {"int8": SIXES, "bfloat16": HALVES, "float32": WHOLES}


def fits(config: DecoderConfig, choice: Backend) -> bool:
    """Whether there are kernels for this choice that run on this machine, and suit these sizes."""
    sizes = config.hidden_size, config.ffn_dim, config.num_codebooks * config.vocab_size
    if _held(choice) == "int8":
        there, unit = sixes_numba.supported() and supported(HALVES), OUTPUTS
    else:
        there, unit = supported(_KINDS[_held(choice)]), LANES
    return there and config.head_dim % LANES == 0 and not any(size % unit for size in sizes)


def _held(choice: Backend) -> str:
    """What matrices are kept in: int8, bfloat16 or float32."""
    return choice.dtype if choice.quantize is None else "int8"


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
        for index, layer in enumerate(layers):
            reader = _with(layer.reader, text, index) if layer.reader else None
            layers[index] = replace(_with(layer, music, index), reader=reader)
        decoder.heads = PackedMatrix(heads, 0, config.num_codebooks * config.vocab_size)

    @property
    def bytes_a_weight(self) -> float:
        """Bytes that a step reads for each weight of a matrix."""
        return LINES * LINE / (GROUP * OUTPUTS) if self.kind == SIXES else GROUP_BYTES[self.kind] / INPUTS[self.kind]

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

    def memory(self, first: Sequence[int], stop: Sequence[int], places: int) -> Memory:
        """Room for keys and values of `places` places, for as many rows as `first` and `stop` say."""
        config, inputs = self.config, INPUTS[HALVES if self.kind == SIXES else self.kind]
        shape = config.num_hidden_layers, len(first), config.num_attention_heads
        blocks = max(-(-places // LANES), 1)
        number = torch.float32 if self.kind == WHOLES else torch.bfloat16
        keys = torch.zeros(*shape, blocks, config.head_dim // inputs, LANES, inputs, dtype=number)
        values = torch.zeros(*shape, config.head_dim // LANES, blocks * LANES // inputs, LANES, inputs, dtype=number)
        return Memory(_numbers(keys), _numbers(values), np.array(first, np.int64), np.array(stop, np.int64))


class Steps:
    """One batch's memory, and the steps that read and write it."""

    def __init__(
        self, kernels: Kernels, first: Sequence[int], places: int, texts: Sequence[Tensor], ends: Sequence[int]
    ) -> None:
        """Rows begin at the places `first`; texts [2, readers, heads, L, n] of every layer end at `ends`."""
        config, rows = kernels.config, len(first)
        self.kernels = kernels
        self.music = kernels.memory(first, [0] * rows, places)
        self.text = kernels.memory([0] * len(ends), ends, max(ends, default=0))
        for index, pair in enumerate(texts):
            self._write(self.text, index, pair)
        sizes = config.hidden_size, config.hidden_size, config.ffn_dim, config.num_codebooks * config.vocab_size
        self.board = Board(counts(), *(np.zeros((rows, size), np.float32) for size in sizes))

    def remember(self, index: int, pair: Tensor) -> None:
        """Keys and values [2, rows, heads, n, head_dim] of layer `index`, from the first place on."""
        self._write(self.music, index, pair)

    def write(
        self, choice: Choice, read: np.ndarray, ahead: int, position: int, script: np.ndarray, noise: np.ndarray
    ) -> np.ndarray:
        """Tokens [jobs, K] at `position`, behind `ahead` places -> those of the next positions, [steps, jobs, K].

        Script [steps, jobs, K] and noise [steps, jobs, K, vocab] are as `step_numba.steps` takes them.
        """
        tokens = np.empty((len(script) + 1, *read.shape), np.int64)
        tokens[0] = read
        self.board.counts[:] = 0
        arguments = self.kernels.weights, self.music, self.text, self.board, ahead, choice, position
        team().run(step_numba.steps, *arguments, script, noise, tokens, counts=self.board.counts)
        return tokens[1:]

    def __call__(self, hidden: Tensor, place: int) -> Tensor:
        """Hidden [rows, d] at `place` -> logits [rows, K * vocab]."""
        self.board.counts[:] = 0
        self.board.hidden[:] = hidden.numpy()
        arguments = self.kernels.weights, self.music, self.text, self.board, place
        team().run(step_numba.step, *arguments, counts=self.board.counts)
        return torch.from_numpy(self.board.logits.copy())

    @staticmethod
    def _write(memory: Memory, index: int, pair: Tensor) -> None:
        keys, values = pair.contiguous().numpy()
        team().run(step_numba.remember, memory, index, keys, values)


class CompiledSession(Session):
    """A session whose steps are taken by kernels, once what is longer than a step has been read."""

    @torch.inference_mode()
    def __init__(self, kernels: Kernels, decoder: FusedDecoder, batch: Batch, states: Sequence[Tensor | None]) -> None:
        super().__init__(decoder, batch, states)
        first = [0] * self.rows if self.seen is None else (~self.seen).flatten(1).sum(1).tolist()
        lengths = [1 if each is None else len(each) for each in states[: self.text_rows]]
        self._steps = Steps(kernels, first, self.ahead + batch.steps, self.text_caches, lengths)
        self._script = batch.script
        self._choice = self._choice_for([job.sampling for job in batch.jobs])

    def _choice_for(self, settings: Sequence[Sampling]) -> Choice | None:
        """What the kernels pick tokens by; None where a share of the probability is kept (top-p), which is torch's."""
        if any(each.top_p not in (None, 1) for each in settings):
            return None
        vocab = self.decoder.config.vocab_size
        return Choice(
            self.decoder.embeddings.numpy(),
            self.positions.contiguous().numpy(),
            self.repeats.numpy(),
            self.partners.numpy(),
            self.guidance.flatten().numpy(),
            np.array([min(each.top_k or vocab, vocab) for each in settings]),
            np.array([each.temperature for each in settings], np.float32),
        )

    def steps(self, tokens: Tensor | np.ndarray, position: int, most: int) -> list[Tensor]:
        """Up to `most` steps for `decode`: a few at once, for calling threads and Python takes time too."""
        read = np.asarray(tokens)
        opening = read.ndim > 2 and (read.shape[2] > 1 or self.ahead)
        if self._choice is None or opening:
            return super().steps(tokens, position, most)
        places = range(position + 1, position + 1 + min(most, _AT_ONCE))
        noise = np.stack([self.noise(each) for each in places])
        script = self._script[places.start : places.stop]
        read = read.reshape(script.shape[1:])
        return list(torch.from_numpy(self._steps.write(self._choice, read, self.ahead, position, script, noise)))

    def _room(self, places: int) -> list[Tensor]:
        return []  # the kernels have a memory of their own

    def _logits(self, hidden: Tensor, place: int, count: int) -> Tensor:
        return self._steps(hidden, place) if count == 1 else super()._logits(hidden, place, count)

    def _remembered(self, index: int, pair: Tensor, place: int) -> Tensor:
        # Nothing comes before what is read at once.
        self._steps.remember(index, pair)
        return pair


class CompiledEngine(Engine):
    """An engine with kernels, for a choice that `fits`."""

    def __init__(
        self, text: T5Config, decoder: DecoderConfig, tensors: Mapping[str, Mapping[str, Tensor]], choice: Backend
    ) -> None:
        super().__init__(text, decoder, tensors, replace(choice, dtype="float32", quantize=None))
        self.kernels = Kernels(self.decoder, _held(choice))

    def begin(self, batch: Batch, states: Sequence[Tensor | None]) -> Session:
        """Begin to decode `batch`; `states` are those of `batch.texts`, None where there is no text."""
        return CompiledSession(self.kernels, self.decoder, batch, states)


def _in_sixes(matrices: Sequence[Tensor]) -> Sixes:
    """Matrices [in, out], rounded group by group."""
    ins, outs = matrices[0].shape
    packed = lined((len(matrices), sixes_layout.size(outs, ins)), np.uint8)
    units = np.empty((len(matrices), outs), np.float32)
    codes, scales = np.empty((outs, ins), np.uint8), np.empty((outs, ins // GROUP), np.int8)
    for index, matrix in enumerate(matrices):
        weight = matrix.t().contiguous().numpy()
        team().run(rounding_numba.rounded, weight, codes, scales, units[index])
        # Kernels do not look whether a weight is a number: what it is multiplied by says it for all of its output.
        units[index, ~np.isfinite(weight).all(1)] = np.nan
        sixes_layout.laid_out(codes, scales, packed[index])
    return Sixes(packed, units)


def _with(holder: Any, packed: Mapping[str, Any], index: int) -> Any:
    """A layer or a reader, with packed matrices in place of its own."""
    own = {name: PackedMatrix(each, index, getattr(holder, name).shape[1]) for name, each in packed.items()}
    return replace(holder, **own)


def _numbers(tensor: Tensor) -> np.ndarray:
    """The tensor's own memory; bfloat16, which numpy does not know, as bits."""
    return (tensor.contiguous().view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
