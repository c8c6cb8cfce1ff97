"""What comes before and after the layers of a step, for whom torch's calls would take longer than the work."""

from __future__ import annotations

import numpy as np

from hemiola.kernels.compiling_numba import compiled

_F32 = np.float32
_INFINITE = 0x7F800000  # bits; those of no number are larger


@compiled
def embed(tokens: np.ndarray, owners: np.ndarray, table: np.ndarray, positions: np.ndarray, out: np.ndarray) -> None:
    """Tokens int64 [jobs, K] by rows of a table [K * (vocab + 1), d], and positions [1 or rows, d] -> out [rows, d]."""
    codebooks = tokens.shape[1]
    size = len(table) // codebooks
    for row in range(len(out)):
        target = out[row]
        target[:] = 0
        for codebook in range(codebooks):
            source = table[codebook * size + tokens[owners[row], codebook]]
            for k in range(len(target)):
                target[k] += source[k]
        place = positions[row if len(positions) > 1 else 0]
        for k in range(len(target)):
            target[k] += place[k]


@compiled
def guide(logits: np.ndarray, partners: np.ndarray, guidance: np.ndarray, out: np.ndarray) -> None:
    """Logits [rows, n], the row that each job steers away from [jobs], and how far [jobs] -> out [jobs, n]."""
    for job in range(len(out)):
        own, away, target, far = logits[job], logits[partners[job]], out[job], guidance[job]
        if partners[job] == job:
            target[:] = own
        else:
            for k in range(len(target)):
                target[k] = away[k] + far * (own[k] - away[k])


@compiled
def pick(
    logits: np.ndarray,
    noise: np.ndarray,
    top_k: np.ndarray,
    temperature: np.ndarray,
    room: np.ndarray,
    out: np.ndarray,
) -> None:
    """Logits and noise [jobs, K, vocab], settings [jobs] -> tokens int64 [jobs, K]; vocab where they are no numbers.

    The token whose logit plus noise is the largest, of those that fewer than top_k logits exceed. That is asked of the
    best, then of the next best: seldom of many. A temperature of 0 takes the largest logit. `room` [vocab] is written
    over.
    """
    jobs, codebooks, vocab = logits.shape
    for job in range(jobs):
        for codebook in range(codebooks):
            some, chance = logits[job, codebook], noise[job, codebook]
            if not _are_numbers(some):
                out[job, codebook] = vocab
                continue
            if temperature[job] == 0:
                room[:] = some
            else:
                for k in range(vocab):
                    room[k] = some[k] / temperature[job] + chance[k]
            best = _largest(room)
            for _ in range(vocab):
                if temperature[job] == 0 or _exceeding(some, some[best]) < top_k[job]:
                    break
                room[best] = -np.finfo(np.float32).max
                best = _largest(room)
            out[job, codebook] = best


@compiled
def _are_numbers(some: np.ndarray) -> bool:
    bits, largest = some.view(np.int32), np.int32(0)
    for k in range(len(bits)):
        largest = max(largest, np.int32(bits[k] & np.int32(0x7FFFFFFF)))
    return bool(largest <= _INFINITE)


@compiled
def _largest(some: np.ndarray) -> int:
    """The first place of the largest."""
    best = some[0]
    for k in range(len(some)):
        best = max(best, some[k])
    for k in range(len(some)):
        if some[k] == best:
            return k
    return 0


@compiled
def _exceeding(some: np.ndarray, least: np.float32) -> int:
    count = np.int32(0)
    for k in range(len(some)):
        count += np.int32(some[k] > least)
    return int(count)
