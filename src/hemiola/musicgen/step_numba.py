"""Steps of decoding, as every thread of a team carries them out.

A thread has its share of the heads and of every product's outputs. Where it needs what the others made, all meet; in
between nothing is called, and no weight is fetched twice. Sums are in float32 or, of bytes, in exact integers for each
group of inputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.functions_numba import exp, gelu
from hemiola.kernels.meeting_numba import meet
from hemiola.kernels.sixes_numba import OUTPUTS
from hemiola.kernels.vectors_numba import LANES
from hemiola.musicgen.choosing_numba import Choice, choose, embed
from hemiola.musicgen.products_numba import give, kept, multiply, room, spread

_F32 = np.float32
_NORM_EPSILON = _F32(1e-5)
_LOWEST = np.finfo(np.float32).min


class Weights(NamedTuple):
    """A decoder; each part is of all layers."""

    norms: np.ndarray  # float32 [layers, 3, 2, d]: before self-attention, reading and feed-forward; weights, biases
    self_qkv: Any
    self_out: Any
    query: Any
    read_out: Any
    fc1: Any
    fc2: Any
    last_norm: np.ndarray  # float32 [2, d]
    heads: Any


class Memory(NamedTuple):
    """Keys and values of a batch, uint16 (bfloat16) or float32, packed as matrices are: attention is two products.

    `inputs` are two in bfloat16, one in float32. What was not written is 0.
    """

    keys: np.ndarray  # [layers, rows, heads, places / LANES, n / inputs, LANES, inputs]
    values: np.ndarray  # [layers, rows, heads, n / LANES, places / inputs, LANES, inputs]
    first: np.ndarray  # int64 [rows], the first place that a row sees
    stop: np.ndarray  # int64 [rows], where a row's text ends


class Board(NamedTuple):
    """What the threads write for each other, float32, and where they meet."""

    counts: np.ndarray  # int64 [2, n], as `meet` wants them
    hidden: np.ndarray  # [rows, d]
    mixed: np.ndarray  # [rows, d]
    inner: np.ndarray  # [rows, ffn_dim]
    logits: np.ndarray  # [rows, K * vocab]


@compiled
def steps(
    part: int,
    parts: int,
    weights: Any,
    music: Any,
    text: Any,
    board: Any,
    ahead: int,
    choice: Choice,
    position: int,
    script: np.ndarray,
    noise: np.ndarray,
    tokens: np.ndarray,
) -> None:
    """What thread `part` of `parts` does to write tokens[1:] by what stands before them, int64 [steps + 1, jobs, K].

    tokens[0] are read at `position`, which is the place `ahead` + position. Script int64 [steps, jobs, K] has what is
    written whatever the model says, and less than 0 elsewhere. Noise is [steps, jobs, K, vocab].
    """
    width = board.hidden.shape[1]
    first, last = _share(width, LANES, part, parts)
    _, jobs, codebooks, vocab = noise.shape
    guided = np.empty(vocab, np.float32)
    for index in range(len(noise)):
        embed(choice, tokens[index], position + index, first, last, board.hidden)
        meet(board.counts, parts)
        step(part, parts, weights, music, text, board, ahead + position + index)
        meet(board.counts, parts)
        # As far as shares are whole codebooks, a thread's own logits.
        for codebook in range(codebooks * part // parts, codebooks * (part + 1) // parts):
            some = board.logits[:, codebook * vocab : (codebook + 1) * vocab]
            for job in range(jobs):
                wanted = script[index, job, codebook]
                if wanted < 0:
                    wanted = choose(choice, job, some, noise[index, job, codebook], guided)
                tokens[index + 1, job, codebook] = wanted
        meet(board.counts, parts)


@compiled
def step(part: int, parts: int, weights: Any, music: Any, text: Any, board: Any, place: int) -> None:
    """What thread `part` of `parts` does for the step at `place`: board.hidden in, board.logits out.

    `text` has the first rows only, or none: attention to no text is exactly 0.
    """
    hidden, mixed, inner, logits = board.hidden, board.mixed, board.inner, board.logits
    rows, width = hidden.shape
    readers, heads = len(text.first), music.keys.shape[2]
    n = width // heads
    given, wide = room(weights.self_qkv, rows, width), room(weights.fc2, rows, inner.shape[1])
    fused, steps = np.empty((rows, 3 * width), np.float32), np.empty(rows, np.float32)
    scores = np.empty(LANES * max(music.keys.shape[3], text.keys.shape[3]), np.float32)
    first, last = _share(width, LANES, part, parts)
    first_value, last_value = _share(width, n, part, parts)
    first_head, last_head = first_value // n, last_value // n
    first_inner, last_inner = _share(inner.shape[1], LANES, part, parts)
    for layer in range(len(weights.norms)):
        norms = weights.norms[layer]
        _give_normed(weights.self_qkv, hidden, norms[0], given, steps)
        for kind in range(3):
            start = kind * width
            multiply(weights.self_qkv, layer, given, steps, start + first_value, start + last_value, fused, False)
        for row in range(rows):
            for head in range(first_head, last_head):
                own, out = fused[row].reshape(3, heads, n), mixed[row].reshape(heads, n)[head]
                _remember(music, layer, row, head, place, own[1, head], own[2, head])
                _attend(own[0, head], music, layer, row, head, place + 1, out, scores)
        meet(board.counts, parts)
        _give_rows(weights.self_out, mixed, given, steps)
        multiply(weights.self_out, layer, given, steps, first, last, hidden, True)
        meet(board.counts, parts)
        if readers:
            _give_normed(weights.query, hidden[:readers], norms[1], given, steps)
            multiply(weights.query, layer, given[:readers], steps, first_value, last_value, fused, False)
            for row in range(readers):
                for head in range(first_head, last_head):
                    own, out = fused[row].reshape(3, heads, n), mixed[row].reshape(heads, n)[head]
                    _attend(own[0, head], text, layer, row, head, text.stop[row], out, scores)
            meet(board.counts, parts)
            _give_rows(weights.read_out, mixed[:readers], given, steps)
            multiply(weights.read_out, layer, given[:readers], steps, first, last, hidden, True)
            meet(board.counts, parts)
        _give_normed(weights.fc1, hidden, norms[2], given, steps)
        multiply(weights.fc1, layer, given, steps, first_inner, last_inner, inner, False)
        for row in range(rows):
            some = inner[row, first_inner:last_inner]  # as an array of its own it is done in vectors
            for k in range(len(some)):
                some[k] = gelu(some[k])
        meet(board.counts, parts)
        _give_rows(weights.fc2, inner, wide, steps)
        multiply(weights.fc2, layer, wide, steps, first, last, hidden, True)
        meet(board.counts, parts)
    _give_normed(weights.heads, hidden, weights.last_norm, given, steps)
    first, last = _share(logits.shape[1], LANES, part, parts)
    multiply(weights.heads, 0, given, steps, first, last, logits, False)


@compiled
def remember(part: int, parts: int, memory: Any, layer: int, keys: np.ndarray, values: np.ndarray) -> None:
    """Write down keys and values [rows, heads, places, n] from place 0 on: the heads that are thread `part`'s share."""
    rows, heads, places, _ = keys.shape
    for row in range(rows):
        for head in range(heads * part // parts, heads * (part + 1) // parts):
            for place in range(places):
                _remember(memory, layer, row, head, place, keys[row, head, place], values[row, head, place])


@compiled
def _share(count: int, unit: int, part: int, parts: int) -> tuple[int, int]:
    """Outputs from the first to the last of a thread: whole units, and where it can be whole bundles of outputs."""
    size = unit
    while size % OUTPUTS:
        size += unit
    pieces = count // size
    return pieces * part // parts * size, pieces * (part + 1) // parts * size if part + 1 < parts else count


@compiled
def _give_rows(matrix: Any, source: np.ndarray, given: np.ndarray, steps: np.ndarray) -> None:
    for row in range(len(source)):
        give(matrix, source[row], given[row], steps, row)


@compiled
def _give_normed(matrix: Any, source: np.ndarray, norm: np.ndarray, given: np.ndarray, steps: np.ndarray) -> None:
    flat = np.empty(source.shape[1], np.float32)
    for row in range(len(source)):
        _norm(source[row], norm, flat)
        give(matrix, flat, given[row], steps, row)


@compiled
def _norm(source: np.ndarray, norm: np.ndarray, out: np.ndarray) -> None:
    total = _F32(0)
    for k in range(len(source)):
        total += source[k]
    mean = total / _F32(len(source))
    total = _F32(0)
    for k in range(len(source)):
        away = source[k] - mean
        total += away * away
    rate = _F32(1) / np.sqrt(total / _F32(len(source)) + _NORM_EPSILON)
    for k in range(len(source)):
        out[k] = (source[k] - mean) * rate * norm[0, k] + norm[1, k]


@compiled
def _remember(memory: Any, layer: int, row: int, head: int, place: int, key: np.ndarray, value: np.ndarray) -> None:
    """Write a key and a value [n] down."""
    keys, values = memory.keys[layer, row, head], memory.values[layer, row, head]
    inputs = keys.shape[3]
    block, lane, group, side = place // LANES, place % LANES, place // inputs, place % inputs
    for first in range(0, len(key), inputs):
        for k in range(inputs):
            keys[block, first // inputs, lane, k] = kept(key[first + k], keys)
    for first in range(0, len(value), LANES):
        for k in range(LANES):
            values[first // LANES, group, k, side] = kept(value[first + k], values)


@compiled
def _attend(
    query: np.ndarray, memory: Any, layer: int, row: int, head: int, stop: int, out: np.ndarray, scores: np.ndarray
) -> None:
    """One head of one row: its query [n] over what it remembers before the place `stop` -> out [n]."""
    keys, values = memory.keys[layer, row, head], memory.values[layer, row, head]
    inputs, n, start = keys.shape[3], len(query), memory.first[row]
    spread(keys, start // LANES, (stop + LANES - 1) // LANES, 0, n // inputs, query, scores)
    rate, largest, total = _F32(1) / np.sqrt(_F32(n)), _LOWEST, _F32(0)
    for place in range(start, stop):
        largest = max(largest, scores[place])
    for place in range(start, stop):
        scores[place] = exp((scores[place] - largest) * rate)
        total += scores[place]
    for place in range(start, stop):
        scores[place] /= total
    # A group may hold a place before the first, or one that is not written yet.
    begin, end = start // inputs, (stop + inputs - 1) // inputs
    scores[begin * inputs : start] = _F32(0)
    scores[stop : end * inputs] = _F32(0)
    spread(values, 0, n // LANES, begin, end - begin, scores[begin * inputs :], out)
