"""Steps of decoding, as every thread of a team carries them out.

A thread has its share of the heads and of every product's outputs. Where it needs what the others made, all meet; in
between nothing is called, and no weight is fetched twice. Sums are in float32 or, of bytes, in exact integers for each
group of inputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.functions_numba import gelu
from hemiola.kernels.lending_numba import lent
from hemiola.kernels.meeting_numba import meet
from hemiola.kernels.vectors_numba import LANES
from hemiola.musicgen.attention_numba import attend, desk
from hemiola.musicgen.choosing_numba import Choice, choose, embed
from hemiola.musicgen.memory_numba import fetch_memory, write
from hemiola.musicgen.products_numba import give, give_rows, multiply, room, share
from hemiola.musicgen.reading_numba import Text, answer, ask

_F32 = np.float32
_NORM_EPSILON = _F32(1e-5)


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
    text: Text,
    board: Any,
    ahead: int,
    choice: Choice,
    position: int,
    script: np.ndarray,
    drawn: np.ndarray,
    tokens: np.ndarray,
) -> None:
    """What thread `part` of `parts` does to write tokens[1:] by what stands before them, int64 [steps + 1, jobs, K].

    tokens[0] are read at `position`, which is the place `ahead` + position. Script int64 [steps, jobs, K] has what is
    written whatever the model says, and less than 0 elsewhere. Drawn uint32 [steps, jobs, K, vocab] decides the rest.
    """
    board, choice = lent(board), lent(choice)
    width = board.hidden.shape[1]
    first, last = share(width, LANES, part, parts)
    _, jobs, codebooks, vocab = drawn.shape
    guided = np.empty(vocab, np.float32)
    for index in range(len(drawn)):
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
                    wanted = choose(choice, job, some, drawn[index, job, codebook], guided)
                tokens[index + 1, job, codebook] = wanted
        meet(board.counts, parts)


@compiled
def step(part: int, parts: int, weights: Any, music: Any, text: Text, board: Any, place: int) -> None:
    """What thread `part` of `parts` does for the step at `place`: board.hidden in, board.logits out.

    `text` has the first rows only, or none: attention to no text is exactly 0.
    """
    weights, music, text, board = lent(weights), lent(music), lent(text), lent(board)
    hidden, mixed, inner, logits = board.hidden, board.mixed, board.inner, board.logits
    rows, width = hidden.shape
    readers, heads = len(text.memory.stop), music.keys.shape[2]
    n = width // heads
    given, wide = room(weights.self_qkv, rows, width), room(weights.fc2, rows, inner.shape[1])
    fused, steps = np.empty((rows, 3 * width), np.float32), np.empty(rows, np.float32)
    own_desk = desk(LANES * max(music.keys.shape[3], text.memory.keys.shape[3]), n)
    first, last = share(width, LANES, part, parts)
    first_value, last_value = share(width, n, part, parts)
    first_head, last_head = first_value // n, last_value // n
    first_inner, last_inner = share(inner.shape[1], LANES, part, parts)
    for layer in range(len(weights.norms)):
        norms = weights.norms[layer]
        _give_normed(weights.self_qkv, hidden, norms[0], given, steps)
        fetch_memory(music, layer, 0, first_head, place + 1)
        for kind in range(3):
            start = kind * width
            multiply(weights.self_qkv, layer, given, steps, start + first_value, start + last_value, fused, False)
        for row in range(rows):
            own, out = fused[row], mixed[row]
            for head in range(first_head, last_head):
                # The next one, while this one is worked on.
                if head + 1 < last_head:
                    fetch_memory(music, layer, row, head + 1, place + 1)
                elif row + 1 < rows:
                    fetch_memory(music, layer, row + 1, first_head, place + 1)
                write(music, layer, row, head, place, own, width + head * n, 2 * width + head * n)
                attend(own, music, layer, row, head, place + 1, out, own_desk)
        meet(board.counts, parts)
        give_rows(weights.self_out, mixed, given, steps)
        multiply(weights.self_out, layer, given, steps, first, last, hidden, True)
        meet(board.counts, parts)
        if readers:
            _give_normed(weights.query, hidden[:readers], norms[1], given, steps)
            ask(part, parts, weights.query, layer, text, text.asking, given, steps, fused, own_desk, mixed)
            meet(board.counts, parts)
            answer(part, parts, weights.read_out, layer, text, text.giving, own_desk, mixed, hidden)
            meet(board.counts, parts)
        _give_normed(weights.fc1, hidden, norms[2], given, steps)
        multiply(weights.fc1, layer, given, steps, first_inner, last_inner, inner, False)
        for row in range(rows):
            some = inner[row, first_inner:last_inner]  # as an array of its own it is done in vectors
            for k in range(len(some)):
                some[k] = gelu(some[k])
        meet(board.counts, parts)
        give_rows(weights.fc2, inner, wide, steps)
        multiply(weights.fc2, layer, wide, steps, first, last, hidden, True)
        meet(board.counts, parts)
    _give_normed(weights.heads, hidden, weights.last_norm, given, steps)
    first, last = share(logits.shape[1], LANES, part, parts)
    multiply(weights.heads, 0, given, steps, first, last, logits, False)


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
