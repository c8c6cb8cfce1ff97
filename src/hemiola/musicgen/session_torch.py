"""Step by step decoding in PyTorch: the decoder's weights as a step reads them, and one batch's caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hemiola.backend import Backend
from hemiola.musicgen.batch import Batch, Noise
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.decoder_torch import Decoder
from hemiola.musicgen.int8_torch import Int8Matrix
from hemiola.musicgen.positions import sinusoids
from hemiola.musicgen.sampling_torch import Picker
from hemiola.musicgen.t5_torch import T5Encoder
from hemiola.weights import keys
from hemiola.weights.unfilled_torch import unfilled

# Copies and tables that some published checkpoints carry along.
TEXT_IGNORABLE = ("encoder.embed_tokens.weight",)
DECODER_IGNORABLE = ("model.decoder.embed_positions.weights",)

NORM_EPSILON = 1e-5

Matrix = Tensor | Int8Matrix  # [in, out]
Norm = tuple[Tensor, Tensor]  # weight and bias


@dataclass(frozen=True, eq=False)
class FusedLayer:
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


class FusedDecoder:
    """The decoder's weights laid out for steps: fewer and larger products, the same numbers."""

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

    def project(self, states: Tensor) -> Tensor:
        """Text states [L, text_width] -> [L, d]."""
        states = states.to(self.embeddings)
        return F.linear(states, self.projection["weight"], self.projection["bias"]) if self.projection else states


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
    return (torch.concatenate(weights) if len(weights) > 1 else weights[0]).t()


def _norm(weight: Tensor, bias: Tensor) -> Norm:
    return weight, bias


def _normed(hidden: Tensor, norm: Norm) -> Tensor:
    return F.layer_norm(hidden, hidden.shape[1:], *norm, NORM_EPSILON)


def _times(hidden: Tensor, matrix: Matrix) -> Tensor:
    return matrix.times(hidden) if isinstance(matrix, Int8Matrix) else hidden @ matrix


def _plus_times(total: Tensor, hidden: Tensor, matrix: Matrix) -> Tensor:
    """A residual sum, made by the product itself."""
    return matrix.plus_times(total, hidden) if isinstance(matrix, Int8Matrix) else torch.addmm(total, hidden, matrix)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, allowed: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=causal)


class Session:
    """One batch on its way: caches of keys and values, the text's keys and values, the script and the noise."""

    @torch.inference_mode()
    def __init__(self, decoder: FusedDecoder, batch: Batch, states: Sequence[Tensor | None]) -> None:
        config, like = decoder.config, decoder.embeddings
        self.decoder = decoder
        self.rows = len(batch.texts)
        self.repeats = torch.tensor([*range(len(batch.jobs)), *_guided(batch)], device=like.device)
        self.script = torch.tensor(batch.script, device=like.device)
        self.noise = Noise(batch)
        self.partners = torch.tensor(batch.partners, device=like.device)
        self.guidance = torch.tensor([[[job.guidance]] for job in batch.jobs], device=like.device)
        self.picker = Picker([job.sampling for job in batch.jobs], config.vocab_size, like.device)
        self.positions = torch.tensor(sinusoids(batch.steps, config.hidden_size)).to(like)
        shape = (2, self.rows, config.num_attention_heads, batch.steps, config.head_dim)
        self.caches = [like.new_empty(shape) for _ in decoder.layers]
        self._read_text(states)

    def _read_text(self, states: Sequence[Tensor | None]) -> None:
        """Project every text's keys and values, each text by itself; rows behind the last text need none."""
        self.text_rows = max((row + 1 for row, each in enumerate(states) if each is not None), default=0)
        longest = max((len(each) for each in states if each is not None), default=0)
        config, like = self.decoder.config, self.decoder.embeddings
        shape = (2, self.text_rows, config.num_attention_heads, longest, config.head_dim)
        self.text_caches = [like.new_zeros(shape) for _ in self.decoder.layers]
        allowed = torch.zeros(self.text_rows, 1, 1, longest, dtype=torch.bool)
        for row, each in enumerate(states[: self.text_rows]):
            # A row with no text sees one key of zeros, whose value is 0: an empty softmax would be NaN.
            allowed[row, ..., : 1 if each is None else len(each)] = True
            if each is None:
                continue
            projected = self.decoder.project(each)
            for layer, cache in zip(self.decoder.layers, self.text_caches):
                pair = _times(projected, layer.text_key_value).reshape(len(each), *shape[:1], *shape[2:3], -1)
                cache[:, row, :, : len(each)] = pair.permute(1, 2, 0, 3)
        self.allowed = None if bool(allowed.all()) else allowed.to(like.device)

    @torch.inference_mode()
    def step(self, tokens: Tensor | np.ndarray, position: int) -> Tensor:
        """Tokens [jobs, K] at `position`, or [jobs, K, n] from 0 on -> those at the next position, [jobs, K]."""
        tokens = torch.as_tensor(tokens, device=self.script.device)
        length = tokens.shape[2] if tokens.ndim == 3 else 1
        hidden = self._embed(tokens.reshape(*tokens.shape[:2], length), position)
        for index, layer in enumerate(self.decoder.layers):
            hidden = self._layer(index, layer, hidden, position, length)
        logits = self._logits(hidden[length - 1 :: length])
        noise = torch.as_tensor(self.noise(position + length), device=logits.device)
        wanted = self.script[position + length]
        return torch.where(wanted < 0, self.picker(logits, noise), wanted)

    def fetch(self, written: list[Tensor]) -> np.ndarray:
        """Bring tokens to the host: int32 [len(written), jobs, K]."""
        return torch.stack(written).int().cpu().numpy()

    def _embed(self, tokens: Tensor, position: int) -> Tensor:
        """Tokens [jobs, K, n] -> hidden [rows * n, d]."""
        if self.rows > len(tokens):
            tokens = tokens[self.repeats]
        places = (tokens + self.decoder.offsets[:, None]).swapaxes(1, 2).flatten(0, 1)
        summed = F.embedding(places, self.decoder.embeddings).sum(1)
        length = tokens.shape[2]
        summed = summed.reshape(-1, length, summed.shape[1])
        return (summed + self.positions[position : position + length]).flatten(0, 1)

    def _layer(self, index: int, layer: FusedLayer, hidden: Tensor, position: int, length: int) -> Tensor:
        """Hidden [rows * n, d] -> the same shape; the residual sums are made by the products."""
        config = self.decoder.config
        fused = _times(_normed(hidden, layer.self_norm), layer.self_qkv)
        heads = fused.reshape(self.rows, length, 3, config.num_attention_heads, config.head_dim)
        heads = heads.permute(2, 0, 3, 1, 4)
        self.caches[index].narrow(3, position, length).copy_(heads.narrow(0, 1, 2))
        past_keys, past_values = self.caches[index].narrow(3, 0, position + length).unbind()
        mixed = _attend(heads[0], past_keys, past_values, causal=length > 1)
        hidden = _plus_times(hidden, _merge(mixed), layer.self_out)
        if self.text_rows:
            hidden = self._read(index, layer, hidden, length)
        inner = F.gelu(_times(_normed(hidden, layer.last_norm), layer.fc1))
        return _plus_times(hidden, inner, layer.fc2)

    def _read(self, index: int, layer: FusedLayer, hidden: Tensor, length: int) -> Tensor:
        """Add what the rows with a text read in it; attention to no text is exactly 0, so those rows are left alone."""
        config = self.decoder.config
        count = self.text_rows * length
        query = _times(_normed(hidden[:count], layer.text_norm), layer.text_query)
        query = query.reshape(self.text_rows, length, config.num_attention_heads, config.head_dim).swapaxes(1, 2)
        text_keys, text_values = self.text_caches[index].unbind()
        mixed = _attend(query, text_keys, text_values, allowed=self.allowed)
        hidden[:count] = _plus_times(hidden[:count], _merge(mixed), layer.text_out)
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        """Hidden [rows, d] -> guided logits float32 [jobs, K, vocab]."""
        logits = _times(_normed(hidden, self.decoder.norm), self.decoder.heads).float()
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
        with unfilled():
            self.text_encoder = T5Encoder(text).eval()
            expected = Decoder(decoder, text.d_model).state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in self.text_encoder.state_dict().items()}
        keys.check(shapes, tensors["text_encoder"], where="text encoder", ignorable=TEXT_IGNORABLE)
        self.device = torch.device(choice.device)
        ready = {name: tensors["text_encoder"][name].to(self.device, torch.float32) for name in shapes}
        self.text_encoder.load_state_dict(ready, assign=True)
        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        keys.check(shapes, tensors["decoder"], where="decoder", ignorable=DECODER_IGNORABLE)
        dtype = getattr(torch, choice.dtype)
        ready = {name: tensors["decoder"][name].to(self.device, dtype) for name in shapes}
        self.decoder = FusedDecoder(decoder, ready)
        if choice.quantize is not None:
            _quantize(self.decoder)

    @torch.inference_mode()
    def states(self, tokens: list[int]) -> Tensor:
        """Text tokens -> text states [L, text_width]; a text goes through alone, so nothing beside it can matter."""
        ids = torch.tensor([tokens], device=self.device)
        return self.text_encoder(ids, torch.ones_like(ids))[0]

    def begin(self, batch: Batch, states: Sequence[Tensor | None]) -> Session:
        """Begin to decode `batch`; `states` are those of `batch.texts`, None where there is no text."""
        return Session(self.decoder, batch, states)


def _quantize(decoder: FusedDecoder) -> None:
    """Keep the matrices of every step in 8 bits; embeddings, norms and the text projection stay as they are."""

    def packed(each: Any) -> Any:
        return Int8Matrix(each.t()) if isinstance(each, Tensor) else each

    for index, layer in enumerate(decoder.layers):
        decoder.layers[index] = FusedLayer(**{name: packed(each) for name, each in vars(layer).items()})
    decoder.heads = packed(decoder.heads)
