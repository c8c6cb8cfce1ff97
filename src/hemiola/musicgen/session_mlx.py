"""Step by step decoding in MLX: one batch's caches, and the engine that begins it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.core import array as Tensor
from mlx.utils import tree_flatten

from hemiola.backend import Backend, on_device
from hemiola.musicgen.batch import Batch, Noise
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.decoder_mlx import Decoder
from hemiola.musicgen.fused_mlx import FusedDecoder, FusedLayer, FusedReader, normed, plus_times, quantize, times
from hemiola.musicgen.positions import sinusoids
from hemiola.musicgen.sampling_mlx import Picker
from hemiola.musicgen.t5_mlx import T5Encoder
from hemiola.weights import keys

# Copies and tables that some published checkpoints carry along.
TEXT_IGNORABLE = ("encoder.embed_tokens.weight",)
DECODER_IGNORABLE = ("model.decoder.embed_positions.weights",)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, allowed: Tensor | None = None) -> Tensor:
    mask = "causal" if causal else allowed
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)


class Session:
    """One batch on its way: caches of keys and values, the text's keys and values, the script and the noise."""

    def __init__(self, decoder: FusedDecoder, batch: Batch, states: Sequence[Tensor | None], device: str) -> None:
        config = decoder.config
        self.decoder = decoder
        self.device = device
        self.rows = len(batch.texts)
        self.repeats = mx.array(batch.owners)
        self.script = mx.array(batch.script.astype(np.int32))
        self.noise = Noise(batch)
        self.partners = mx.array(batch.partners.astype(np.int32))
        self.guidance = mx.array([[[float(job.sampling.guidance)]] for job in batch.jobs])
        self.picker = Picker([job.sampling for job in batch.jobs], config.vocab_size)
        # A dozen small operations on the same shapes at every step: a GPU runs them as few. On a CPU each would cost
        # seconds of a C++ compiler first. The layers stay as they are: they grow by a key a step, and are all matrices.
        self.pick = mx.compile(self.picker.__call__) if device == "gpu" else self.picker
        openings = [] if config.melody is None else self._openings(batch, states)
        self._open(openings, batch.steps)
        self.caches = self._room(self.ahead + batch.steps)
        self._read_text(states if config.melody is None else [None] * self.rows)

    def _room(self, places: int) -> list[Tensor]:
        """Memory for keys and values of so many places in every layer, [2, rows, heads, places, head_dim]."""
        config, like = self.decoder.config, self.decoder.embeddings
        shape = (2, self.rows, config.num_attention_heads, places, config.head_dim)
        return [mx.zeros(shape, like.dtype) for _ in self.decoder.layers]

    def _openings(self, batch: Batch, states: Sequence[Tensor | None]) -> list[Tensor]:
        """What stands before each row's music; no text is as long as the text that it stands for."""
        own = [states[owner] if each is None else each for owner, each in zip(batch.owners, states)]
        lengths = [1 if each is None else len(each) for each in own]
        return [self.decoder.opening(*each) for each in zip(states, lengths, batch.melodies)]

    def _open(self, openings: Sequence[Tensor], steps: int) -> None:
        """Lay openings so that all end where the music begins; places before a shorter one are never seen.

        A row's positions count from the start of its own opening, so that nothing beside it can matter.
        """
        like, width = self.decoder.embeddings, self.decoder.config.hidden_size
        self.ahead = max((len(each) for each in openings), default=0)
        self.missing = [self.ahead - len(each) for each in openings] or [0] * self.rows
        table = sinusoids(self.ahead + steps, width)
        rows = [np.roll(table, count, axis=0) for count in (self.missing if any(self.missing) else [0])]
        positions = mx.array(np.stack(rows)).astype(like.dtype)
        self.opening, self.positions = positions[:, : self.ahead], positions[:, self.ahead :]
        if openings:
            padded = [mx.pad(each, [(gap, 0), (0, 0)]) for gap, each in zip(self.missing, openings)]
            self.opening = self.opening + mx.stack(padded)
        seen = mx.arange(self.ahead + steps) >= mx.array(self.missing)[:, None]
        self.seen = seen[:, None, None] if any(self.missing) else None

    def _read_text(self, states: Sequence[Tensor | None]) -> None:
        """Project every text's keys and values, each text by itself; rows behind the last text need none."""
        self.text_rows = max((row + 1 for row, each in enumerate(states) if each is not None), default=0)
        longest = max((len(each) for each in states if each is not None), default=0)
        config, like = self.decoder.config, self.decoder.embeddings
        shape = (2, self.text_rows, config.num_attention_heads, longest, config.head_dim)
        self.text_caches = [mx.zeros(shape, like.dtype) for _ in self.decoder.layers]
        allowed = np.zeros((self.text_rows, 1, 1, longest), dtype=np.bool_)
        for row, each in enumerate(states[: self.text_rows]):
            # A row with no text sees one key of zeros, whose value is 0: an empty softmax would be NaN.
            allowed[row, ..., : 1 if each is None else len(each)] = True
            if each is None:
                continue
            same = next(index for index, other in enumerate(states) if other is each)
            if same < row:
                for cache in self.text_caches:
                    cache[:, row] = cache[:, same]
                continue
            for cache, pair in zip(self.text_caches, self._projected(each)):
                cache[:, row, :, : len(each)] = pair
        self.allowed = None if bool(allowed.all()) else mx.array(allowed)

    def _projected(self, state: Tensor) -> Iterable[Tensor]:
        """A text's state [L, text_width] -> each layer's keys and values of it, [2, heads, L, n]."""
        projected, config = self.decoder.project(state), self.decoder.config
        for layer in self.decoder.layers:
            assert layer.reader is not None
            pair = times(projected, layer.reader.key_value)
            yield pair.reshape(len(state), 2, config.num_attention_heads, -1).transpose(1, 2, 0, 3)

    def steps(self, tokens: Tensor | np.ndarray, position: int, most: int) -> list[Tensor]:
        """One step, and what it wrote, for `decode`."""
        return [self.step(tokens, position)]

    @on_device
    def step(self, tokens: Tensor | np.ndarray, position: int) -> Tensor:
        """Tokens [jobs, K] at `position`, or [jobs, K, n] from 0 on -> those at the next position, [jobs, K]."""
        tokens = mx.array(tokens)
        length = tokens.shape[2] if tokens.ndim == 3 else 1
        hidden = self._embed(tokens.reshape(*tokens.shape[:2], length), position)
        place, count = (self.ahead + position, length) if position else (0, self.ahead + length)
        logits = self._guided(self._logits(hidden, place, count))
        noise = mx.array(self.noise(position + length))
        wanted = self.script[position + length]
        written = mx.where(wanted < 0, self.pick(logits, noise), wanted)
        # The device starts on this step while the next one is laid out; nothing waits.
        mx.async_eval(written)
        return written

    @on_device
    def fetch(self, written: list[Tensor]) -> np.ndarray:
        """Bring tokens to the host: int32 [len(written), jobs, K]."""
        return np.array(mx.stack(written).astype(mx.int32))

    def _embed(self, tokens: Tensor, position: int) -> Tensor:
        """Tokens [jobs, K, n] -> hidden [rows * n, d], after the opening when they are the first."""
        if self.rows > len(tokens):
            tokens = tokens[self.repeats]
        places = (tokens + self.decoder.offsets[:, None]).swapaxes(1, 2).flatten(0, 1)
        summed = self.decoder.embeddings[places].sum(1)
        length = tokens.shape[2]
        summed = summed.reshape(-1, length, summed.shape[1])
        placed = summed + self.positions[:, position : position + length]
        if self.ahead and not position:
            placed = mx.concatenate([self.opening, placed], axis=1)
        return placed.flatten(0, 1)

    def _allowed(self, place: int, count: int) -> Tensor | None:
        """Which places each of `count` from `place` on may see, or None where nothing but the order limits that."""
        if self.seen is None:
            return None
        seen = self.seen[..., : place + count]
        if count == 1:
            return seen
        order = mx.arange(place + count)
        each = order[place:, None]
        # A place that is never seen sees itself: an empty softmax is NaN.
        return (seen & (order <= each)) | (order == each)

    def _layer(self, index: int, layer: FusedLayer, hidden: Tensor, place: int, allowed: Tensor | None) -> Tensor:
        """Hidden [rows * n, d] -> the same shape."""
        config, length = self.decoder.config, len(hidden) // self.rows
        fused = times(normed(hidden, layer.self_norm), layer.self_qkv)
        heads = fused.reshape(self.rows, length, 3, config.num_attention_heads, config.head_dim)
        heads = heads.transpose(2, 0, 3, 1, 4)
        past_keys, past_values = self._remembered(index, heads[1:], place)
        mixed = _attend(heads[0], past_keys, past_values, causal=length > 1 and allowed is None, allowed=allowed)
        hidden = plus_times(hidden, _merge(mixed), layer.self_out)
        if self.text_rows and layer.reader is not None:
            hidden = self._read(index, layer.reader, hidden, length)
        inner = nn.gelu(times(normed(hidden, layer.last_norm), layer.fc1))
        return plus_times(hidden, inner, layer.fc2)

    def _remembered(self, index: int, pair: Tensor, place: int) -> Tensor:
        """Write keys and values [2, rows, heads, n, head_dim] down at `place` -> all from place 0 on."""
        length = pair.shape[3]
        self.caches[index][:, :, :, place : place + length] = pair
        return self.caches[index][:, :, :, : place + length]

    def _read(self, index: int, reader: FusedReader, hidden: Tensor, length: int) -> Tensor:
        """Add what the rows with a text read in it; attention to no text is exactly 0, so those rows are left alone."""
        config = self.decoder.config
        count = self.text_rows * length
        query = times(normed(hidden[:count], reader.norm), reader.query)
        query = query.reshape(self.text_rows, length, config.num_attention_heads, config.head_dim).swapaxes(1, 2)
        text_keys, text_values = self.text_caches[index]
        mixed = _attend(query, text_keys, text_values, allowed=self.allowed)
        read = plus_times(hidden[:count], _merge(mixed), reader.out)
        return mx.concatenate([read, hidden[count:]]) if count < len(hidden) else read

    def _logits(self, hidden: Tensor, place: int, count: int) -> Tensor:
        """Hidden [rows * count, d] from `place` on -> logits float32 [rows, K * vocab] of the last."""
        allowed = self._allowed(place, count)
        for index, layer in enumerate(self.decoder.layers):
            hidden = self._layer(index, layer, hidden, place, allowed)
        return times(normed(hidden[count - 1 :: count], self.decoder.norm), self.decoder.heads).astype(mx.float32)

    def _guided(self, logits: Tensor) -> Tensor:
        """Logits [rows, K * vocab] -> guided ones [jobs, K, vocab]."""
        logits = logits.reshape(self.rows, self.decoder.config.num_codebooks, -1)
        jobs = len(self.partners)
        if self.rows == jobs:
            return logits
        away = logits[self.partners]
        return away + self.guidance * (logits[:jobs] - away)


def _merge(mixed: Tensor) -> Tensor:
    """Heads [rows, heads, n, head_dim] -> [rows * n, d]."""
    return mixed.swapaxes(1, 2).reshape(mixed.shape[0] * mixed.shape[2], -1)


class Engine:
    """Text encoder and decoder of one checkpoint on one device; begins a session for every batch."""

    def __init__(
        self, text: T5Config, decoder: DecoderConfig, tensors: Mapping[str, Mapping[str, Tensor]], choice: Backend
    ) -> None:
        """`tensors` holds the parts "text_encoder" and "decoder" by their names in there; WeightsError if they misfit.

        The text encoder runs once a request and T5 overflows in float16: it always works in float32.
        """
        self.device = choice.device
        with mx.stream(getattr(mx, choice.device)):
            # Nothing is computed before it is asked for: what these modules are initialised with never is.
            self.text_encoder = T5Encoder(text)
            shapes = _shapes(self.text_encoder)
            keys.check(shapes, tensors["text_encoder"], where="text encoder", ignorable=TEXT_IGNORABLE)
            ready = {name: tensors["text_encoder"][name].astype(mx.float32) for name in shapes}
            self.text_encoder.load_weights(list(ready.items()))
            shapes = _shapes(Decoder(decoder, text.d_model))
            keys.check(shapes, tensors["decoder"], where="decoder", ignorable=DECODER_IGNORABLE)
            dtype = getattr(mx, choice.dtype)
            ready = {name: tensors["decoder"][name].astype(dtype) for name in shapes}
            self.decoder = FusedDecoder(decoder, ready)
            if choice.quantize is not None:
                quantize(self.decoder, choice.quantize)
            # Read here and now: what is left lazy belongs to this thread, and a server's others could not use it.
            mx.eval(self.text_encoder.parameters(), self.decoder.parameters())
            mx.clear_cache()

    @on_device
    def states(self, tokens: list[int]) -> Tensor:
        """Text tokens -> text states [L, text_width]; a text goes through alone, so nothing beside it can matter."""
        ids = mx.array([tokens])
        return self.text_encoder(ids, mx.ones_like(ids))[0]

    @on_device
    def begin(self, batch: Batch, states: Sequence[Tensor | None]) -> Session:
        """Begin to decode `batch`; `states` are those of `batch.texts`, None where there is no text."""
        return Session(self.decoder, batch, states, self.device)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    parameters: dict[str, Tensor] = dict(tree_flatten(module.parameters()))
    return {name: tuple(parameter.shape) for name, parameter in parameters.items()}
