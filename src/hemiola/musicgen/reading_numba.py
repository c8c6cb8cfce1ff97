"""What a step's rows read in their texts, which stay the same for all steps.

Attention asks keys by a query, and gives a mixture of values to a matrix. The query is a product itself: of a short
text its keys and the query's matrix are folded into one, [d, heads * places], and so are its values and the matrix that
they are given to. For a dozen words a step then reads a third of the bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.memory import LINE
from hemiola.kernels.rounding_numba import bytes_laid_out
from hemiola.kernels.sixes_numba import BYTE_LINES, BYTES, GROUP, OUTPUTS, PACKED
from hemiola.kernels.vectors_numba import LANES
from hemiola.musicgen.attention_numba import attend, weigh
from hemiola.musicgen.products_numba import Sixes, give_rows, multiply, multiply_groups, room, share

_F32 = np.float32


class Folded(NamedTuple):
    """Matrices of all layers in bytes, which no rounding adds much to: of all folded texts, one behind the other."""

    packed: np.ndarray  # uint8 [layers, bytes], as sixes_numba.py has it
    units: np.ndarray  # float32 [layers, outputs], what a scale of 1 stands for


class Text(NamedTuple):
    """What a batch reads. The rows of a run have the same text; of one that is folded `memory` holds nothing."""

    # int64 [runs, 5]: the first row, the one behind the last, places of the folded text or 0, and of all before it
    # places and number.
    runs: np.ndarray
    memory: Any
    asking: Any  # Folded, [d, heads * places] of each text; None where matrices are of a kind that is never folded
    giving: Any  # the same, [heads * places, d]


@compiled
def ask(
    part: int,
    parts: int,
    query: Any,
    layer: int,
    text: Text,
    folded: Any,
    given: np.ndarray,
    steps: np.ndarray,
    queries: np.ndarray,
    scores: np.ndarray,
    mixed: np.ndarray,
) -> None:
    """Rows given as products take them -> what they read by thread `part`'s heads, or how much of each place, in mixed.

    Rows have the form that products with `query` take. `folded` is text.asking: numba leaves out what stands behind
    an argument that is None. Queries [rows, d or more] and scores are written over.
    """
    width, heads = mixed.shape[1], text.memory.keys.shape[2]
    n = width // heads
    for index in range(len(text.runs)):
        run = text.runs[index]
        begin, end, places, before = run[0], run[1], run[2], run[3]
        some, own_steps, out = given[begin:end], steps[begin:end], mixed[begin:end]
        if folded is not None and places:
            size = heads * places
            first, last = share(size, places, part, parts)
            weights, units = (before * heads * width, size * width), (before * heads, size)
            _multiply_folded(folded, layer, weights, units, some, own_steps, first, last, out, False)
            for row in range(begin, end):
                for head in range(first // places, last // places):
                    own = mixed[row, head * places : (head + 1) * places]
                    weigh(own, 0, text.memory.stop[row], n)
                    own[text.memory.stop[row] :] = _F32(0)
        else:
            first, last = share(width, n, part, parts)
            multiply(query, layer, some, own_steps, first, last, queries[begin:end], False)
            for row in range(begin, end):
                for head in range(first // n, last // n):
                    own = queries[row, head * n : (head + 1) * n]
                    target = mixed[row, head * n : (head + 1) * n]
                    attend(own, text.memory, layer, row, head, text.memory.stop[row], target, scores)


@compiled
def answer(
    part: int,
    parts: int,
    matrix: Any,
    layer: int,
    text: Text,
    folded: Any,
    mixed: np.ndarray,
    hidden: np.ndarray,
) -> None:
    """Add what the rows read to hidden [rows, d]: the columns of thread `part`. `matrix` is [heads * n, d].

    `folded` is text.giving.
    """
    width, heads = mixed.shape[1], text.memory.keys.shape[2]
    first, last = share(width, LANES, part, parts)
    for index in range(len(text.runs)):
        run = text.runs[index]
        begin, end, places, before, number = run[0], run[1], run[2], run[3], run[4]
        size = heads * places if places else width
        given, steps = room(matrix, end - begin, size), np.empty(end - begin, np.float32)
        give_rows(matrix, mixed[begin:end, :size], given, steps)
        if folded is not None and places:
            weights, units = (before * heads * width, size * width), (number * width, width)
            _multiply_folded(folded, layer, weights, units, given, steps, first, last, hidden[begin:end], True)
        else:
            multiply(matrix, layer, given, steps, first, last, hidden[begin:end], True)


@compiled
def _multiply_folded(
    matrices: Folded,
    layer: int,
    weights: tuple[int, int],
    units: tuple[int, int],
    given: np.ndarray,
    steps: np.ndarray,
    start: int,
    stop: int,
    out: np.ndarray,
    adding: bool,
) -> None:
    """Multiply by one of a layer's folded matrices: where its weights and units begin, and how many they are."""
    place = matrices.packed.ctypes.data + layer * matrices.packed.strides[0] + folded_bytes(weights[0])
    own = matrices.units[layer, units[0] : units[0] + units[1]]
    groups = weights[1] // units[1] // GROUP
    multiply_groups(BYTES, place, groups, 0, own, given, steps, start, stop, out, adding)


@compiled
def folded_bytes(weights: int) -> int:
    """Bytes of a folded matrix of so many weights."""
    return weights // (GROUP * OUTPUTS) * BYTE_LINES * LINE


@compiled
def fold(part: int, parts: int, turned: Sixes, out: Sixes, pairs: np.ndarray, run: np.ndarray, text: Text) -> None:
    """Fold a text's keys and values float32 [layers, 2, heads, L, n], as a run says: thread `part`'s layers.

    `turned` are the queries' matrices turned round, [heads * n, d], and `out` those that values are given to.
    """
    layers, _, heads, _, _ = pairs.shape
    places, before, number = run[2], run[3], run[4]
    size, width = heads * places, turned.units.shape[1]
    mixed, across = np.zeros((size, width), np.float32), np.empty((width, size), np.float32)
    for layer in range(layers * part // parts, layers * (part + 1) // parts):
        first = folded_bytes(before * heads * width)
        _fold_heads(turned, layer, pairs[layer, 0], places, mixed)
        bytes_laid_out(mixed, text.asking.packed[layer, first:], text.asking.units[layer, before * heads :])
        _fold_heads(out, layer, pairs[layer, 1], places, mixed)
        for start in range(0, size, LANES):
            for column in range(width):
                for row in range(start, start + LANES):
                    across[column, row] = mixed[row, column]
        bytes_laid_out(across, text.giving.packed[layer, first:], text.giving.units[layer, number * width :])


@compiled
def _fold_heads(matrix: Sixes, layer: int, vectors: np.ndarray, places: int, mixed: np.ndarray) -> None:
    """Vectors [heads, L, n], each times its own head's inputs of the matrix -> mixed [heads * places, d]."""
    heads, count, n = vectors.shape
    given, steps = room(matrix, count, n), np.empty(count, np.float32)
    place = matrix.packed.ctypes.data + layer * matrix.packed.strides[0]
    for head in range(heads):
        give_rows(matrix, vectors[head], given, steps)
        some = mixed[head * places : head * places + count]
        groups = heads * n // GROUP
        multiply_groups(
            PACKED, place, groups, head * n // GROUP, matrix.units[layer], given, steps, 0, mixed.shape[1], some, False
        )
