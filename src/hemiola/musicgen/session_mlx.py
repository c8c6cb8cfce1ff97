"""Step by step decoding in MLX: the decoder's weights as a step reads them, and one batch's caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.core import array as Tensor
from mlx.utils import tree_flatten

from hemiola.backend import Backend, on_device
from hemiola.errors import BackendError
from hemiola.musicgen.batch import Batch, Noise
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.decoder_mlx import Decoder
from hemiola.musicgen.positions import sinusoids
from hemiola.musicgen.sampling_mlx import Picker
from hemiola.musicgen.t5_mlx import T5Encoder
from hemiola.weights import keys

# Copies and tables that some published checkpoints carry along.
TEXT_IGNORABLE = ("encoder.embed_tokens.weight",)
DECODER_IGNORABLE = ("model.decoder.embed_positions.weights",)

NORM_EPSILON = 1e-5
# So many weights of a row share a scale when they are quantised: the more, the smaller; all must be full.
GROUP_SIZES = (64, 32)


Matrix = nn.Linear
Norm = nn.LayerNorm


@dataclass(eq=False, repr=False)
class FusedLayer(nn.Module):
    """One layer's weights; queries, keys and values of the self-attention lie in one matrix."""

    self_norm: Norm
    self_qkv: Matrix
    self_out: Matrix
    text_norm: Norm
    text_query: Matrix
    text_key_value: Matrix
    text_out: Matrix
    last_norm: Norm
    fc1: Matrix
    fc2: Matrix


class FusedDecoder(nn.Module):
    """The decoder's weights laid out for steps: fewer and larger products, the same numbers."""

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

    def project(self, states: Tensor) -> Tensor:
        """Text states [L, text_width] -> [L, d]."""
        states = states.astype(self.embeddings.dtype)
        projection = self.projection
        return mx.addmm(projection["bias"], states, projection["weight"].T) if projection else states


def _fuse(layer: Mapping[str, Tensor]) -> FusedLayer:
    def norm(name: str) -> Norm:
        return _norm(layer[f"{name}.weight"], layer[f"{name}.bias"])

    def joined(attention: str, parts: str) -> Matrix:
        return _matrix([layer[f"{attention}.{part}_proj.weight"] for part in parts])

    return FusedLayer(
        self_norm=norm("self_attn_layer_norm"),
        self_qkv=joined("self_attn", "qkv"),
        self_out=_matrix([layer["self_attn.out_proj.weight"]]),
        text_norm=norm("encoder_attn_layer_norm"),
        text_query=_matrix([layer["encoder_attn.q_proj.weight"]]),
        text_key_value=joined("encoder_attn", "kv"),
        text_out=_matrix([layer["encoder_attn.out_proj.weight"]]),
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


def _normed(hidden: Tensor, norm: Norm) -> Tensor:
    return norm(hidden)


def _times(hidden: Tensor, matrix: Matrix) -> Tensor:
    return matrix(hidden)


def _plus_times(total: Tensor, hidden: Tensor, matrix: Matrix) -> Tensor:
    """A residual sum."""
    return total + matrix(hidden)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, allowed: Tensor | None = None) -> Tensor:
    mask = "causal" if causal else allowed
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)


class Session:
    """One batch on its way: caches of keys and values, the text's keys and values, the script and the noise."""

    def __init__(self, decoder: FusedDecoder, batch: Batch, states: Sequence[Tensor | None], device: str) -> None:
        config, like = decoder.config, decoder.embeddings
        self.decoder = decoder
        self.device = device
        self.rows = len(batch.texts)
        self.repeats = mx.array([*range(len(batch.jobs)), *_guided(batch)])
        self.script = mx.array(batch.script.astype(np.int32))
        self.noise = Noise(batch)
        self.partners = mx.array(batch.partners.astype(np.int32))
        self.guidance = mx.array([[[float(job.guidance)]] for job in batch.jobs])
        self.picker = Picker([job.sampling for job in batch.jobs], config.vocab_size)
        # A dozen small operations on the same shapes at every step: a GPU runs them as few. On a CPU each would cost
        # seconds of a C++ compiler first. The layers stay as they are: they grow by a key a step, and are all matrices.
        self.pick = mx.compile(self.picker.__call__) if device == "gpu" else self.picker
        self.positions = mx.array(sinusoids(batch.steps, config.hidden_size)).astype(like.dtype)
        shape = (2, self.rows, config.num_attention_heads, batch.steps, config.head_dim)
        self.caches = [mx.zeros(shape, like.dtype) for _ in decoder.layers]
        self._read_text(states)

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
            projected = self.decoder.project(each)
            for layer, cache in zip(self.decoder.layers, self.text_caches):
                pair = _times(projected, layer.text_key_value).reshape(len(each), *shape[:1], *shape[2:3], -1)
                cache[:, row, :, : len(each)] = pair.transpose(1, 2, 0, 3)
        self.allowed = None if bool(allowed.all()) else mx.array(allowed)

    @on_device
    def step(self, tokens: Tensor | np.ndarray, position: int) -> Tensor:
        """Tokens [jobs, K] at `position`, or [jobs, K, n] from 0 on -> those at the next position, [jobs, K]."""
        tokens = mx.array(tokens)
        length = tokens.shape[2] if tokens.ndim == 3 else 1
        hidden = self._embed(tokens.reshape(*tokens.shape[:2], length), position)
        for index, layer in enumerate(self.decoder.layers):
            hidden = self._layer(index, layer, hidden, position, length)
        logits = self._logits(hidden[length - 1 :: length])
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
        """Tokens [jobs, K, n] -> hidden [rows * n, d]."""
        if self.rows > len(tokens):
            tokens = tokens[self.repeats]
        places = (tokens + self.decoder.offsets[:, None]).swapaxes(1, 2).flatten(0, 1)
        summed = self.decoder.embeddings[places].sum(1)
        length = tokens.shape[2]
        summed = summed.reshape(-1, length, summed.shape[1])
        return (summed + self.positions[position : position + length]).flatten(0, 1)

    def _layer(self, index: int, layer: FusedLayer, hidden: Tensor, position: int, length: int) -> Tensor:
        """Hidden [rows * n, d] -> the same shape."""
        config = self.decoder.config
        fused = _times(_normed(hidden, layer.self_norm), layer.self_qkv)
        heads = fused.reshape(self.rows, length, 3, config.num_attention_heads, config.head_dim)
        heads = heads.transpose(2, 0, 3, 1, 4)
        self.caches[index][:, :, :, position : position + length] = heads[1:]
        past_keys, past_values = self.caches[index][:, :, :, : position + length]
        mixed = _attend(heads[0], past_keys, past_values, causal=length > 1)
        hidden = _plus_times(hidden, _merge(mixed), layer.self_out)
        if self.text_rows:
            hidden = self._read(index, layer, hidden, length)
        inner = nn.gelu(_times(_normed(hidden, layer.last_norm), layer.fc1))
        return _plus_times(hidden, inner, layer.fc2)

    def _read(self, index: int, layer: FusedLayer, hidden: Tensor, length: int) -> Tensor:
        """Add what the rows with a text read in it; attention to no text is exactly 0, so those rows are left alone."""
        config = self.decoder.config
        count = self.text_rows * length
        query = _times(_normed(hidden[:count], layer.text_norm), layer.text_query)
        query = query.reshape(self.text_rows, length, config.num_attention_heads, config.head_dim).swapaxes(1, 2)
        text_keys, text_values = self.text_caches[index]
        mixed = _attend(query, text_keys, text_values, allowed=self.allowed)
        read = _plus_times(hidden[:count], _merge(mixed), layer.text_out)
        return mx.concatenate([read, hidden[count:]]) if count < len(hidden) else read

    def _logits(self, hidden: Tensor) -> Tensor:
        """Hidden [rows, d] -> guided logits float32 [jobs, K, vocab]."""
        logits = _times(_normed(hidden, self.decoder.norm), self.decoder.heads).astype(mx.float32)
        logits = logits.reshape(self.rows, self.decoder.config.num_codebooks, -1)
        jobs = len(self.partners)
        if self.rows == jobs:
            return logits
        away = logits[jobs:] if self.rows == 2 * jobs else logits[self.partners]
        return away + self.guidance * (logits[:jobs] - away)


def _merge(mixed: Tensor) -> Tensor:
    """Heads [rows, heads, n, head_dim] -> [rows * n, d]."""
    return mixed.swapaxes(1, 2).reshape(mixed.shape[0] * mixed.shape[2], -1)


def _guided(batch: Batch) -> list[int]:
    return [index for index, job in enumerate(batch.jobs) if job.is_guided]


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
                _quantize(self.decoder, choice.quantize)
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


def _quantize(decoder: FusedDecoder, bits: int) -> None:
    """Keep the matrices of every step in `bits` bits; embeddings, norms and the text projection stay as they are."""
    widths = (decoder.config.hidden_size, decoder.config.ffn_dim)
    group_size = next((size for size in GROUP_SIZES if not any(width % size for width in widths)), None)
    if group_size is None:
        raise BackendError(f"a decoder {widths[0]} wide cannot be quantised: leave out --quantize")

    nn.quantize(decoder, group_size, bits)
