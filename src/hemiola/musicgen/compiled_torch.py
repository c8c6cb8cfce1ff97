"""Decoding by compiled kernels, for PyTorch on a CPU: steps that a team of threads takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hemiola.backend import Backend
from hemiola.kernels.team_torch import counts, team
from hemiola.musicgen import memory_numba, step_numba
from hemiola.musicgen.batch import Batch, Noise
from hemiola.musicgen.choosing_numba import Choice, bounds
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.fused_torch import FusedDecoder
from hemiola.musicgen.packed_torch import Kernels, suits
from hemiola.musicgen.reading_torch import text_for
from hemiola.musicgen.sampling import Sampling
from hemiola.musicgen.session_torch import Engine, Session
from hemiola.musicgen.step_numba import Board

# Steps between which nobody can say stop: so many, or what reads so many bytes, for every pair of rows, in a tenth of a
# second or two.
_AT_ONCE, _BYTES_AT_ONCE = 8, 4_000_000_000


def fits(config: DecoderConfig, choice: Backend) -> bool:
    """Whether there are kernels for this choice that run on this machine, and suit these sizes."""
    return suits(config, _held(choice))


def _held(choice: Backend) -> str:
    """What matrices are kept in: int8, bfloat16 or float32."""
    return choice.dtype if choice.quantize is None else "int8"


class Steps:
    """One batch's memory, and the steps that read and write it."""

    def __init__(
        self,
        kernels: Kernels,
        first: Sequence[int],
        places: int,
        caches: Sequence[Tensor],
        states: Sequence[Tensor | None],
    ) -> None:
        """Rows begin at the places `first`; the first of them read keys and values [2, readers, heads, L, n].

        Those are of every layer, and made of `states` [length, width], alike where it is the same; None is no text.
        """
        config, rows = kernels.config, len(first)
        self.kernels = kernels
        self.music = kernels.memory(first, [0] * rows, places)
        self.text = text_for(kernels, caches, states)
        sizes = config.hidden_size, config.hidden_size, config.ffn_dim, config.num_codebooks * config.vocab_size
        self.board = Board(counts(), *(np.zeros((rows, size), np.float32) for size in sizes))

    @property
    def bytes_read(self) -> int:
        """Bytes of the matrices that a step reads."""
        weights, text = self.kernels.weights, self.text
        is_folded = text.runs[:, 2] > 0
        matrices = [weights.self_qkv, weights.self_out, weights.fc1, weights.fc2, weights.heads]
        matrices += [text.asking, text.giving] if is_folded.any() else []
        matrices += [weights.query, weights.read_out] if not is_folded.all() else []
        return sum(each.packed.nbytes for each in matrices)

    def remember(self, index: int, pair: Tensor) -> None:
        """Keys and values [2, rows, heads, n, head_dim] of layer `index`, from the first place on."""
        team().run(memory_numba.remember, self.music, index, *pair.contiguous().numpy())

    def write(
        self, choice: Choice, read: np.ndarray, ahead: int, position: int, script: np.ndarray, drawn: np.ndarray
    ) -> np.ndarray:
        """Tokens [jobs, K] at `position`, behind `ahead` places -> those of the next positions, [steps, jobs, K].

        Script [steps, jobs, K] and drawn [steps, jobs, K, vocab] are as `step_numba.steps` takes them.
        """
        tokens = np.empty((len(script) + 1, *read.shape), np.int64)
        tokens[0] = read
        self.board.counts[:] = 0
        arguments = self.kernels.weights, self.music, self.text, self.board, ahead, choice, position
        team().run(step_numba.steps, *arguments, script, drawn, tokens, counts=self.board.counts)
        return tokens[1:]

    def __call__(self, hidden: Tensor, place: int) -> Tensor:
        """Hidden [rows, d] at `place` -> logits [rows, K * vocab]."""
        self.board.counts[:] = 0
        self.board.hidden[:] = hidden.numpy()
        arguments = self.kernels.weights, self.music, self.text, self.board, place
        team().run(step_numba.step, *arguments, counts=self.board.counts)
        return torch.from_numpy(self.board.logits.copy())


class CompiledSession(Session):
    """A session whose steps are taken by kernels, once what is longer than a step has been read."""

    @torch.inference_mode()
    def __init__(self, kernels: Kernels, decoder: FusedDecoder, batch: Batch, states: Sequence[Tensor | None]) -> None:
        self.kernels = kernels
        self._script, self._drawn = batch.script, Noise(batch, drawn=True)
        super().__init__(decoder, batch, states)
        read = states[: self.text_rows]
        self._steps = Steps(kernels, self.missing, self.ahead + batch.steps, self.text_caches, read)
        self._at_once = max(1, min(_AT_ONCE, 2 * _BYTES_AT_ONCE // (self.rows * self.bytes_read)))
        self._choice = self._choice_for([job.sampling for job in batch.jobs])

    @property
    def bytes_read(self) -> int:
        """Bytes of the matrices that a step reads."""
        return self._steps.bytes_read

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
            bounds(),
        )

    def _projected(self, state: Tensor) -> Iterable[Tensor]:
        heads = self.decoder.config.num_attention_heads
        projected = self.decoder.project(state)
        # For some milliseconds torch's threads look for more work, in the way of ours: one of them draws meanwhile.
        self._drawn.block(1)
        pairs = self.kernels.projected(projected)
        return pairs.unflatten(-1, (2, heads, -1)).permute(0, 2, 3, 1, 4)

    def steps(self, tokens: Tensor | np.ndarray, position: int, most: int) -> list[Tensor]:
        """Up to `most` steps for `decode`: a few at once, for calling threads and Python takes time too."""
        read = np.asarray(tokens)
        opening = read.ndim > 2 and (read.shape[2] > 1 or self.ahead)
        if self._choice is None or opening:
            return super().steps(tokens, position, most)
        places = range(position + 1, position + 1 + min(most, self._at_once))
        drawn = np.stack([self._drawn(each) for each in places])
        script = self._script[places.start : places.stop]
        read = read.reshape(script.shape[1:])
        return list(torch.from_numpy(self._steps.write(self._choice, read, self.ahead, position, script, drawn)))

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
