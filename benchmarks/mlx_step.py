"""What a decoding step costs on MLX: this package's, the layers written naively, and what no step can be faster than.

    python benchmarks/mlx_step.py                       the bundled model's shape, random weights
    python benchmarks/mlx_step.py --model sketch        a checkpoint; also says what 8 and 4 bits do to its logits
    python benchmarks/mlx_step.py --width 1024 --layers 24 --heads 16 --vocab 2048 --steps 5     musicgen-small's shape

One text with guidance, so two rows. The kinds of step take turns, and of each the median counts: wall clock, and CPU
time, which is the one to read when others use the machine.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

from hemiola.backend import choose
from hemiola.musicgen.batch import Batch, Job
from hemiola.musicgen.config import DecoderConfig
from hemiola.musicgen.decoder_mlx import Decoder, Layer
from hemiola.musicgen.fused_mlx import FusedDecoder, quantize
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.positions import sinusoids
from hemiola.musicgen.sampling import Sampling
from hemiola.musicgen.session_mlx import Session

TEXT_LENGTH = 12
GREEDY = Sampling(temperature=0)


class Naive:
    """The decoder as its layers stand in the paper, with a cache of keys and values: the comparison."""

    def __init__(self, decoder: Decoder, batch: Batch, text: mx.array) -> None:
        self.decoder, self.batch = decoder, batch
        # The null condition is a second row of zeros, and like the text it is projected again by every layer and step.
        projected = decoder.project(text[None], mx.ones((1, len(text))))
        self.text = mx.concatenate([projected, mx.zeros_like(projected)])
        self.caches: list[tuple[mx.array, mx.array] | None] = [None] * decoder.config.num_hidden_layers
        self.positions = mx.array(sinusoids(batch.steps, decoder.config.hidden_size))

    def step(self, tokens: mx.array | np.ndarray, position: int) -> mx.array:
        tokens = mx.array(tokens).reshape(1, -1)
        stack = self.decoder.model["decoder"]
        both = mx.concatenate([tokens, tokens])
        hidden = sum(table(both[:, k]) for k, table in enumerate(stack.embed_tokens))
        hidden = (hidden + self.positions[position])[:, None]
        for index, layer in enumerate(stack.layers):
            hidden = self._layer(index, layer, hidden)
        hidden = stack.layer_norm(hidden)[:, 0]
        logits = mx.stack([head(hidden) for head in self.decoder.lm_heads], axis=1)
        guided = logits[1:] + 3.0 * (logits[:1] - logits[1:])
        wanted = mx.array(self.batch.script[position + 1])
        tokens = mx.where(wanted < 0, guided.argmax(-1), wanted)
        mx.eval(tokens)
        return tokens

    def _layer(self, index: int, layer: Layer, hidden: mx.array) -> mx.array:
        asking, own = layer.self_attn_layer_norm(hidden), layer.self_attn
        keys, values = own.split(own.k_proj(asking)), own.split(own.v_proj(asking))
        past = self.caches[index]
        if past is not None:
            keys, values = mx.concatenate([past[0], keys], axis=2), mx.concatenate([past[1], values], axis=2)
        self.caches[index] = keys, values
        hidden = hidden + own.out_proj(_mixed(own.split(own.q_proj(asking)), keys, values))
        asking, text = layer.encoder_attn_layer_norm(hidden), layer.encoder_attn
        keys, values = text.split(text.k_proj(self.text)), text.split(text.v_proj(self.text))
        hidden = hidden + text.out_proj(_mixed(text.split(text.q_proj(asking)), keys, values))
        return hidden + layer.fc2(nn.gelu(layer.fc1(layer.final_layer_norm(hidden))))


def _mixed(query: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    scale = 1 / math.sqrt(query.shape[-1])
    return mx.fast.scaled_dot_product_attention(query, keys, values, scale=scale).swapaxes(1, 2).flatten(2)


class Products:
    """Only the matrix products of a step, on the layout that ours are in: no step is faster than these."""

    def __init__(self, decoder: FusedDecoder) -> None:
        layers = decoder.layers
        self.each = [(layer.self_qkv, layer.self_out, layer.fc1, layer.fc2) for layer in layers]
        self.text = [(layer.reader.query, layer.reader.out) for layer in layers]
        self.heads = decoder.heads
        used = [matrix for some in self.each for matrix in some] + [self.heads]
        of_text = [matrix for some in self.text for matrix in some]
        self.operations = sum(4 * matrix.weight.size for matrix in used) + sum(
            2 * matrix.weight.size for matrix in of_text
        )
        self.bytes = sum(matrix.weight.nbytes for matrix in used + of_text)
        self.inputs = {matrix.weight.shape[1]: mx.ones((2, matrix.weight.shape[1])) for matrix in used}

    def step(self, tokens: object, position: int) -> object:
        found = [matrix(self.inputs[matrix.weight.shape[1]]) for some in self.each for matrix in some]
        found += [matrix(self.inputs[matrix.weight.shape[1]][:1]) for some in self.text for matrix in some]
        mx.eval(found, self.heads(self.inputs[self.heads.weight.shape[1]]))
        return tokens


class NumpyProducts(Products):
    """The same products by numpy, whose BLAS is another."""

    def __init__(self, decoder: FusedDecoder) -> None:
        super().__init__(decoder)
        matrices = [(matrix, 2) for some in self.each for matrix in some]
        matrices += [(matrix, 1) for some in self.text for matrix in some] + [(self.heads, 2)]
        self.pairs = [
            (np.ones((rows, each.weight.shape[1]), np.float32), np.ascontiguousarray(np.array(each.weight).T))
            for each, rows in matrices
        ]

    def step(self, tokens: object, position: int) -> object:
        for rows, matrix in self.pairs:
            rows @ matrix
        return tokens


Step = Callable[[object, int], object]


def timed(kinds: dict[str, Step], first: object, steps: int) -> dict[str, tuple[float, float]]:
    """Median (wall, CPU) milliseconds a step of each kind; the kinds take turns at every position."""
    tokens = dict.fromkeys(kinds, first)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for position in range(steps):
        for name, step in kinds.items():
            wall, cpu = time.perf_counter(), time.process_time()
            tokens[name] = step(tokens[name], position)
            if isinstance(tokens[name], mx.array):
                mx.eval(tokens[name])
            spent[name].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
    return {name: tuple(map(statistics.median, zip(*each[2:]))) for name, each in spent.items()}  # type: ignore[misc]


def weights(decoder: Decoder) -> dict[str, mx.array]:
    parameters = dict(tree_flatten(decoder.parameters()))
    mx.eval(parameters)
    return parameters


def compare_steps(decoder: Decoder, steps: int) -> None:
    """Print what the kinds of step cost."""
    config, tensors = decoder.config, weights(decoder)
    text_width = (
        tensors["enc_to_dec_proj.weight"].shape[1] if "enc_to_dec_proj.weight" in tensors else config.hidden_size
    )
    text = mx.random.normal((TEXT_LENGTH, text_width))
    batch = Batch((Job("", steps, sampling=GREEDY),), config.pattern)
    fused = {bits: FusedDecoder(config, tensors) for bits in (None, 8, 4)}
    for bits, each in fused.items():
        if bits is not None:
            quantize(each, bits)
        mx.eval(each.parameters())
    kinds: dict[str, Step] = {"layers written naively": Naive(decoder, batch, text).step}
    kinds |= {
        f"ours{f', {bits} bits' if bits else ''}": Session(each, batch, [text, None], "cpu").step
        for bits, each in fused.items()
    }
    products = Products(fused[None])
    kinds |= {"its products alone": products.step, "its products, by numpy": NumpyProducts(fused[None]).step}
    found = timed(kinds, batch.script[0], steps)
    print(f"{config.num_hidden_layers} layers of {config.hidden_size}, 2 rows, {steps} steps, ms a step (wall, CPU):")
    for name, (wall, cpu) in found.items():
        print(f"  {name:26s} {wall:9.2f} {cpu:9.2f}")
    for name in ("ours", "its products alone", "its products, by numpy"):
        seconds = found[name][1] / 1e3
        print(f"  {name}: {products.operations / seconds / 1e9:.2f} GFLOP/s, {products.bytes / seconds / 1e9:.2f} GB/s")


def compare_bits(name: str, frames: int) -> None:
    """Print what 8 and 4 bits do to the logits along one piece of music, every step fed the same tokens."""
    models = {
        bits: MusicgenModel.from_pretrained(name, backend="mlx", device="cpu", quantize=bits) for bits in (None, 8, 4)
    }
    exact = models[None]
    job = Job("slow piano with soft drums", frames, seed=1)
    (codes,) = exact.tokens([job])
    logits = {
        bits: logits_along(model, replace(job, frames=frames + 1, prompt=codes[0])) for bits, model in models.items()
    }
    wanted = logits[None]
    print(f"logits over {len(wanted)} steps of {name}, guided; spread {wanted.std():.3f}:")
    for bits in (8, 4):
        apart = logits[bits] - wanted
        p, q = (np.exp(each - np.logaddexp.reduce(each, axis=-1, keepdims=True)) for each in (wanted, logits[bits]))
        divergence = (p * np.log(p / q)).sum(-1).mean()
        likeliest = (wanted.argmax(-1) == logits[bits].argmax(-1)).mean()
        print(
            f"  {bits} bits: off by {np.sqrt((apart**2).mean()) / wanted.std():.4f} of the spread, at most "
            f"{np.abs(apart).max():.3f}; KL {divergence:.5f} nats; same likeliest token {likeliest:.1%}"
        )


def logits_along(model: MusicgenModel, job: Job) -> np.ndarray:
    """Guided logits [steps, K, vocab] where the job's prompt says what every step reads."""
    batch = Batch((job,), model.config.decoder.pattern)
    engine = model._engine
    states = [None if text is None else engine.states(model.tokenizer.encode(text)) for text in batch.texts]
    session = engine.begin(batch, states)
    found: list[mx.array] = []
    session.pick = lambda logits, draws: found.append(logits) or logits.argmax(-1)
    for position in range(job.prompt_frames):
        mx.eval(session.step(np.maximum(batch.script[position], 0), position))
    return np.concatenate([np.array(each) for each in found]).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint; without it random weights of the shape below")
    for name, default in {"width": 256, "layers": 4, "heads": 4, "vocab": 512, "text-width": 128, "steps": 40}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    choose("mlx", "cpu")
    with mx.stream(mx.cpu):
        if options.model:
            model = MusicgenModel.from_pretrained(options.model, backend="mlx", device="cpu")
            config, text_width = model.config.decoder, model.config.text.d_model
        else:
            shape = (options.vocab, options.width, options.layers, options.heads, 4 * options.width)
            config, text_width = DecoderConfig(*shape), options.text_width
        compare_steps(Decoder(config, text_width), options.steps)
        if options.model:
            compare_bits(options.model, options.steps)


if __name__ == "__main__":
    main()
