"""Step by step decoding in MLX: the decoder's weights as a step reads them, and one batch's caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

from hemiola.backend import Backend, on_device
from hemiola.errors import BackendError
from hemiola.musicgen.batch import Batch
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


@dataclass(eq=False, repr=False)
class FusedLayer(nn.Module):
    """One layer's weights, as few matrices; queries, keys and values of the self-attention lie in one."""

    self_norm: nn.LayerNorm
    self_qkv: nn.Linear
    self_out: nn.Linear
    text_norm: nn.LayerNorm
    text_query: nn.Linear
    text_key_value: nn.Linear
    text_out: nn.Linear
    last_norm: nn.LayerNorm
    fc1: nn.Linear
    fc2: nn.Linear


class FusedDecoder(nn.Module):
    """The decoder's weights laid out for steps: fewer and larger products, the same numbers."""

    def __init__(self, config: DecoderConfig, tensors: Mapping[str, mx.array]) -> None:
        super().__init__()
        self.config = config
        stack = keys.under(tensors, "model.decoder.")
        books = range(config.num_codebooks)
        self.embeddings = mx.concatenate([stack[f"embed_tokens.{k}.weight"] for k in books])
        self.heads = _linear([tensors[f"lm_heads.{k}.weight"] for k in books])
        self.offsets = mx.arange(config.num_codebooks) * (config.vocab_size + 1)
        self.layers = [_fuse(keys.under(stack, f"layers.{index}.")) for index in range(config.num_hidden_layers)]
        self.norm = _norm(stack["layer_norm.weight"], stack["layer_norm.bias"])
        projection = keys.under(tensors, "enc_to_dec_proj.")
        self.projection = _linear([projection["weight"]], projection["bias"]) if projection else nn.Identity()

    def project(self, states: mx.array) -> mx.array:
        """Text states [L, text_width] -> [L, d]."""
        return self.projection(states.astype(self.embeddings.dtype))


def _fuse(layer: Mapping[str, mx.array]) -> FusedLayer:
    def norm(name: str) -> nn.LayerNorm:
        return _norm(layer[f"{name}.weight"], layer[f"{name}.bias"])

    def joined(attention: str, parts: str) -> nn.Linear:
        return _linear([layer[f"{attention}.{part}_proj.weight"] for part in parts])

    return FusedLayer(
        self_norm=norm("self_attn_layer_norm"),
        self_qkv=joined("self_attn", "qkv"),
        self_out=_linear([layer["self_attn.out_proj.weight"]]),
        text_norm=norm("encoder_attn_layer_norm"),
        text_query=_linear([layer["encoder_attn.q_proj.weight"]]),
        text_key_value=joined("encoder_attn", "kv"),
        text_out=_linear([layer["encoder_attn.out_proj.weight"]]),
        last_norm=norm("final_layer_norm"),
        fc1=_linear([layer["fc1.weight"]]),
        fc2=_linear([layer["fc2.weight"]]),
    )


def _linear(weights: list[mx.array], bias: mx.array | None = None) -> nn.Linear:
    """One layer that gives the outputs of several, each of weight [out, in], one after the other."""
    weight = mx.concatenate(weights) if len(weights) > 1 else weights[0]
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    # The BLAS that serves the CPU reads a matrix faster that lies [in, out] in memory; a GPU likes it as it comes.
    layer.weight = mx.contiguous(weight.T).T if mx.default_device() == mx.cpu else weight
    if bias is not None:
        layer.bias = bias
    return layer


def _norm(weight: mx.array, bias: mx.array) -> nn.LayerNorm:
    norm = nn.LayerNorm(len(weight), eps=NORM_EPSILON)
    norm.weight, norm.bias = weight, bias
    return norm


class Session:
    """One batch on its way: caches of keys and values, the text's keys and values, the script and the draws."""

    def __init__(self, decoder: FusedDecoder, batch: Batch, states: Sequence[mx.array | None], device: str) -> None:
        config, like = decoder.config, decoder.embeddings
        self.decoder = decoder
        self.device = device
        self.rows = len(batch.texts)
        self.repeats = mx.array([*range(len(batch.jobs)), *_guided(batch)])
        self.script = mx.array(batch.script.astype(np.int32))
        self.draws = mx.array(batch.draws)
        self.partners = mx.array(batch.partners.astype(np.int32))
        self.guidance = mx.array([[[float(job.guidance)]] for job in batch.jobs])
        self.picker = Picker([job.sampling for job in batch.jobs], config.vocab_size, device)
        self.positions = mx.array(sinusoids(batch.steps, config.hidden_size)).astype(like.dtype)
        shape = (2, self.rows, config.num_attention_heads, batch.steps, config.head_dim)
        self.caches = [mx.zeros(shape, like.dtype) for _ in decoder.layers]
        self._read_text(states)

    def _read_text(self, states: Sequence[mx.array | None]) -> None:
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
                pair = layer.text_key_value(projected)
                cache[:, row, :, : len(each)] = mx.unflatten(pair, -1, (2, *shape[2:3], -1)).transpose(1, 2, 0, 3)
        self.allowed = None if bool(allowed.all()) else mx.array(allowed)

    @on_device
    def step(self, tokens: mx.array | np.ndarray, position: int) -> mx.array:
        """Tokens [jobs, K] at `position`, or [jobs, K, n] from 0 on -> those at the next position, [jobs, K]."""
        tokens = mx.array(tokens)
        length = tokens.shape[2] if tokens.ndim == 3 else 1
        hidden = self._embed(tokens.reshape(*tokens.shape[:2], length), position)
        for index, layer in enumerate(self.decoder.layers):
            hidden = self._layer(index, layer, hidden, position, length)
        logits = self._logits(hidden[length - 1 :: length])
        wanted = self.script[position + length]
        written = mx.where(wanted < 0, self.picker(logits, self.draws[position + length]), wanted)
        # The device starts on this step while the next one is laid out; nothing waits.
        mx.async_eval(written)
        return written

    @on_device
    def fetch(self, written: list[mx.array]) -> np.ndarray:
        """Bring tokens to the host: int32 [len(written), jobs, K]."""
        return np.array(mx.stack(written).astype(mx.int32))

    def _embed(self, tokens: mx.array, position: int) -> mx.array:
        """Tokens [jobs, K, n] -> hidden [rows * n, d]."""
        if self.rows > len(tokens):
            tokens = tokens[self.repeats]
        places = (tokens + self.decoder.offsets[:, None]).swapaxes(1, 2).flatten(0, 1)
        summed = self.decoder.embeddings[places].sum(1)
        length = tokens.shape[2]
        return (summed.reshape(-1, length, summed.shape[1]) + self.positions[position : position + length]).flatten(
            0, 1
        )

    def _layer(self, index: int, layer: FusedLayer, hidden: mx.array, position: int, length: int) -> mx.array:
        """Hidden [rows * n, d] -> the same shape."""
        config = self.decoder.config
        fused = layer.self_qkv(layer.self_norm(hidden))
        heads = fused.reshape(self.rows, length, 3, config.num_attention_heads, config.head_dim).transpose(
            2, 0, 3, 1, 4
        )
        self.caches[index][:, :, :, position : position + length] = heads[1:]
        past_keys, past_values = self.caches[index][:, :, :, : position + length]
        mixed = _attend(heads[0], past_keys, past_values, "causal" if length > 1 else None)
        hidden = hidden + layer.self_out(_merge(mixed))
        if self.text_rows:
            hidden = self._read(index, layer, hidden, length)
        return hidden + layer.fc2(nn.gelu(layer.fc1(layer.last_norm(hidden))))

    def _read(self, index: int, layer: FusedLayer, hidden: mx.array, length: int) -> mx.array:
        """Add what the rows with a text read in it; attention to no text is exactly 0, so those rows are left alone."""
        config = self.decoder.config
        count = self.text_rows * length
        asking = layer.text_norm(hidden[:count])
        query = layer.text_query(asking)
        query = query.reshape(self.text_rows, length, config.num_attention_heads, config.head_dim).swapaxes(1, 2)
        text_keys, text_values = self.text_caches[index]
        mixed = _attend(query, text_keys, text_values, self.allowed)
        read = hidden[:count] + layer.text_out(_merge(mixed))
        return mx.concatenate([read, hidden[count:]]) if count < len(hidden) else read

    def _logits(self, hidden: mx.array) -> mx.array:
        """Hidden [rows, d] -> guided logits float32 [jobs, K, vocab]."""
        hidden = self.decoder.norm(hidden)
        logits = self.decoder.heads(hidden).astype(mx.float32)
        logits = logits.reshape(self.rows, self.decoder.config.num_codebooks, -1)
        jobs = len(self.partners)
        if self.rows == jobs:
            return logits
        away = logits[jobs:] if self.rows == 2 * jobs else logits[self.partners]
        return away + self.guidance * (logits[:jobs] - away)


def _attend(query: mx.array, key: mx.array, value: mx.array, mask: mx.array | str | None) -> mx.array:
    return mx.fast.scaled_dot_product_attention(query, key, value, scale=query.shape[-1] ** -0.5, mask=mask)


def _merge(mixed: mx.array) -> mx.array:
    """Heads [rows, heads, n, head_dim] -> [rows * n, d]."""
    return mixed.swapaxes(1, 2).reshape(mixed.shape[0] * mixed.shape[2], -1)


def _guided(batch: Batch) -> list[int]:
    return [index for index, job in enumerate(batch.jobs) if job.is_guided]


class Engine:
    """Text encoder and decoder of one checkpoint on one device; begins a session for every batch."""

    def __init__(
        self, text: T5Config, decoder: DecoderConfig, tensors: Mapping[str, Mapping[str, mx.array]], choice: Backend
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

    @on_device
    def states(self, tokens: list[int]) -> mx.array:
        """Text tokens -> text states [L, text_width]; a text goes through alone, so nothing beside it can matter."""
        ids = mx.array([tokens])
        return self.text_encoder(ids, mx.ones_like(ids))[0]

    @on_device
    def begin(self, batch: Batch, states: Sequence[mx.array | None]) -> Session:
        """Begin to decode `batch`; `states` are those of `batch.texts`, None where there is no text."""
        return Session(self.decoder, batch, states, self.device)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    parameters: dict[str, mx.array] = dict(tree_flatten(module.parameters()))
    return {name: tuple(parameter.shape) for name, parameter in parameters.items()}


def _quantize(decoder: FusedDecoder, bits: int) -> None:
    """Keep the matrices of every step in `bits` bits; embeddings, norms and the text projection stay as they are."""
    widths = (decoder.config.hidden_size, decoder.config.ffn_dim)
    group_size = next((size for size in GROUP_SIZES if not any(width % size for width in widths)), None)
    if group_size is None:
        raise BackendError(f"a decoder {widths[0]} wide cannot be quantised: leave out --quantize")

    def is_step(name: str, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear) and name != "projection"

    nn.quantize(decoder, group_size, bits, class_predicate=is_step)
