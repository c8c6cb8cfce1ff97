"""What a step's rows read in their texts, which stay the same for all steps.

Attention asks keys by a query, and gives a mixture of values to a matrix. The query is a product itself: of a short
text its keys and the query's matrix are folded into one, [d, heads * places], and so are its values and the matrix that
they are given to. For a dozen words a step then reads a quarter of the bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hemiola.kernels.bytes_numba import multiply_bytes
from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.memory import LINE
from hemiola.kernels.rounding_numba import bytes_laid_out
from hemiola.kernels.sixes_numba import GROUP, INPUTS
from hemiola.kernels.vectors_numba import LANES
from hemiola.musicgen.attention_numba import Desk, attend, weigh
from hemiola.musicgen.products_numba import Sixes, give_rows, multiply, multiply_groups, room, share

_F32 = np.float32


class Folded(NamedTuple):
    """Matrices of all layers in bytes, which no rounding adds much to: of all folded texts, one behind the other."""

    packed: np.ndarray  # uint8 [layers, weights], as bytes_numba.py has it
    units: np.ndarray  # float32 [layers, outputs], what 1 stands for


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
    desk: Desk,
    mixed: np.ndarray,
) -> None:
    """Rows given as products take them -> mixed: what they read by thread `part`'s heads, or products with its places.

    Rows have the form that products with `query` take. `folded` is text.asking: numba leaves out what stands behind
    an argument that is None. Queries [rows, d or more] are written over.
    """
    width, heads = mixed.shape[1], text.memory.keys.shape[2]
    n = width // heads
    for index in range(len(text.runs)):
        run = text.runs[index]
        begin, end, places, before = run[0], run[1], run[2], run[3]
        some, own_steps, out = given[begin:end], steps[begin:end], mixed[begin:end]
        if folded is not None and places:
            place, units = _one_of(folded, layer, before * heads * width, before * heads, heads * places)
            blocks, depth = heads * places // LANES, width // INPUTS
            first, last = blocks * part // parts, blocks * (part + 1) // parts
            _multiply_folded(place, depth, units, some, own_steps, first, last, out, False)
        else:
            first, last = share(width, n, part, parts)
            multiply(query, layer, some, own_steps, first, last, queries[begin:end], False)
            for row in range(begin, end):
                own, target = queries[row], mixed[row]
                for head in range(first // n, last // n):
                    attend(own, text.memory, layer, row, head, text.memory.stop[row], target, desk)


@compiled
def answer(
    part: int,
    parts: int,
    matrix: Any,
    layer: int,
    text: Text,
    folded: Any,
    desk: Desk,
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
        rows, out = end - begin, hidden[begin:end]
        steps = np.empty(rows, np.float32)
        if folded is not None and places:
            size = heads * places
            place, units = _one_of(folded, layer, before * heads * width, number * width, width)
            shares = np.zeros((rows, (size + GROUP - 1) // GROUP * GROUP), np.float32)
            for row in range(rows):
                asked, stop = mixed[begin + row], text.memory.stop[begin + row]
                for start in range(0, size, places):
                    desk.scores[:places] = asked[start : start + places]
                    weigh(desk.scores, 0, stop, width // heads)
                    shares[row, start : start + stop] = desk.scores[:stop]
            given = room(matrix, rows, shares.shape[1])
            give_rows(matrix, shares, given, steps)
            _multiply_folded(place, size // INPUTS, units, given, steps, first // LANES, last // LANES, out, True)
        else:
            given = room(matrix, rows, width)
            give_rows(matrix, mixed[begin:end], given, steps)
            multiply(matrix, layer, given, steps, first, last, out, True)


@compiled
def _one_of(matrices: Folded, layer: int, weights: int, units: int, outputs: int) -> tuple[int, np.ndarray]:
    """A folded matrix behind so many weights and units: its address, and units."""
    place = matrices.packed.ctypes.data + layer * matrices.packed.strides[0] + weights
    return place, matrices.units[layer, units : units + outputs]


@compiled
def _multiply_folded(
    place: int,
    depth: int,
    units: np.ndarray,
    given: np.ndarray,
    steps: np.ndarray,
    block: int,
    last: int,
    out: np.ndarray,
    adding: bool,
) -> None:
    multiply_bytes(
        place,
        depth * LINE,
        depth,
        units.ctypes.data,
        len(given),
        given.ctypes.data,
        given.shape[1] // 2,
        steps.ctypes.data,
        block,
        last,
        out.ctypes.data,
        out.strides[0],
        adding,
    )


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
        first = before * heads * width
        _fold_heads(turned, layer, pairs[layer, 0], places, mixed)
        for start in range(0, size, LANES):
            for column in range(width):
                for row in range(start, start + LANES):
                    across[column, row] = mixed[row, column]
        bytes_laid_out(across, text.asking.packed[layer, first:], text.asking.units[layer, before * heads :])
        _fold_heads(out, layer, pairs[layer, 1], places, mixed)
        bytes_laid_out(mixed, text.giving.packed[layer, first:], text.giving.units[layer, number * width :])


@compiled
def _fold_heads(matrix: Sixes, layer: int, vectors: np.ndarray, places: int, mixed: np.ndarray) -> None:
    """Vectors [heads, L, n], each times its own head's inputs of the matrix -> mixed [heads * places, d]."""
    heads, count, n = vectors.shape
    given, steps = room(matrix, count, n), np.empty(count, np.float32)
    place, groups, units = matrix.packed.ctypes.data + layer * matrix.packed.strides[0], heads * n // GROUP, n // GROUP
    for head in range(heads):
        give_rows(matrix, vectors[head], given, steps)
        some = mixed[head * places : head * places + count]
        multiply_groups(place, groups, head * units, matrix.units[layer], given, steps, 0, mixed.shape[1], some, False)
