"""What comes before and after the layers of a step: tokens become rows, and logits the next tokens."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.functions_numba import disordered, largest_bits, ordered
from hemiola.musicgen.sampling import gumbels

_F32 = np.float32
_INFINITE = 0x7F800000  # bits; those of no number are larger
_UPPER = 10  # bits of a draw that say nearly all


class Choice(NamedTuple):
    """What a batch's tokens are read and picked by, for all of its steps."""

    table: np.ndarray  # float32 [K * (vocab + 1), d]: what the tokens of each codebook become
    positions: np.ndarray  # float32 [1 or rows, places, d], what is added
    owners: np.ndarray  # int64 [rows], the job of every row
    partners: np.ndarray  # int64 [jobs], the row that each job steers away from
    guidance: np.ndarray  # float32 [jobs], how far
    top_k: np.ndarray  # int64 [jobs]
    temperature: np.ndarray  # float32 [jobs]
    bounds: np.ndarray  # float32, as `bounds` gives them


def bounds() -> np.ndarray:
    """The largest noise of all draws that have the same upper bits, float32."""
    return gumbels((np.arange(1 << _UPPER, dtype=np.uint32) + 1 << np.uint32(32 - _UPPER)) - np.uint32(1))


@compiled
def embed(choice: Choice, tokens: np.ndarray, position: int, first: int, last: int, out: np.ndarray) -> None:
    """Tokens int64 [jobs, K] -> out [rows, d], from the column `first` to the last."""
    codebooks = tokens.shape[1]
    size = len(choice.table) // codebooks
    for row in range(len(out)):
        target = out[row, first:last]
        target[:] = choice.positions[row if len(choice.positions) > 1 else 0, position, first:last]
        for codebook in range(codebooks):
            source = choice.table[codebook * size + tokens[choice.owners[row], codebook], first:last]
            for k in range(len(target)):
                target[k] += source[k]


@compiled
def choose(choice: Choice, job: int, logits: np.ndarray, drawn: np.ndarray, guided: np.ndarray) -> int:
    """A token by logits [rows, vocab] of one codebook and draws [vocab]; vocab where the logits are no numbers."""
    own, partner, far = logits[job], choice.partners[job], choice.guidance[job]
    if partner == job:
        guided[:] = own
    else:
        away = logits[partner]
        for k in range(len(guided)):
            guided[k] = away[k] + far * (own[k] - away[k])
    return pick(guided, drawn, choice.bounds, choice.top_k[job], choice.temperature[job])


@compiled
def pick(logits: np.ndarray, drawn: np.ndarray, bounds: np.ndarray, top_k: int, temperature: np.float32) -> int:
    """The token whose logit plus noise is the largest, of those that fewer than top_k logits exceed.

    Draws uint32 [vocab]: noise is worked out where none without it could be as large, and asked of the best, then of
    the next best, is how many exceed it: both seldom of many. A temperature of 0 takes the largest logit. Where they
    are no numbers it is vocab.
    """
    vocab = len(logits)
    if largest_bits(logits) > _INFINITE:
        return vocab
    if temperature == 0:
        return _largest(logits)
    scores, is_exact = np.empty(vocab, np.float32), np.zeros(vocab, np.bool_)
    for k in range(vocab):
        scores[k] = logits[k] / temperature + bounds[drawn[k] >> np.uint32(32 - _UPPER)]
    best = _largest(scores)
    for _ in range(2 * vocab):
        if not is_exact[best]:
            scores[best], is_exact[best] = logits[best] / temperature + _gumbel(drawn[best]), True
        elif _exceeding(logits, logits[best]) < top_k:
            break
        else:
            scores[best] = -np.finfo(np.float32).max
        best = _largest(scores)
    return best


@compiled
def _gumbel(draw: np.uint32) -> np.float32:
    """Noise as `sampling.gumbels` makes it."""
    return _F32(-math.log(-math.log((draw + 0.5) * 2.0**-32)))


@compiled
def _largest(some: np.ndarray) -> int:
    """The first place of the largest."""
    highest, place = ordered(some[0]), np.int32(len(some))
    for k in range(len(some)):
        highest = max(highest, ordered(some[k]))
    largest = disordered(highest)
    for k in range(len(some)):
        place = min(place, np.int32(k) if some[k] == largest else np.int32(len(some)))
    return int(place)


@compiled
def _exceeding(some: np.ndarray, least: np.float32) -> int:
    count = np.int32(0)
    for k in range(len(some)):
        count += np.int32(some[k] > least)
    return int(count)
