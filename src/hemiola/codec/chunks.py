"""The windows in which EnCodec at 48 kHz codes, and the overlap-add that joins them again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


def windows(length: int, chunk_length: int | None, stride: int | None) -> list[slice]:
    """Where the chunks of `length` samples lie: one at every stride, those at the end as short as what is left.

    The rule of Meta's encodec: nothing is padded, for zeros would pull down the scale of the last chunk. Without a
    chunk length the whole is one window.
    """
    if chunk_length is None or stride is None:
        return [slice(0, length)]
    return [slice(start, min(start + chunk_length, length)) for start in range(0, length, stride)]


def triangle(length: int) -> NDArray[np.float32]:
    """Weights that rise to the middle of a chunk of `length` samples and fall again, above zero everywhere."""
    t = np.linspace(0, 1, length + 2)[1:-1]
    return (0.5 - np.abs(t - 0.5)).astype(np.float32)


def mixed(chunks: Iterable[NDArray[np.float32]], stride: int) -> Iterator[NDArray[np.float32]]:
    """Chunks [..., samples] that start `stride` apart -> their weighted mean, in parts that no later chunk touches.

    The first chunk is the longest. A chunk is whole frames long, so the last but one may end after the last: all that
    is given reaches up to the last sample of any.
    """
    audio = weights = weight = np.zeros(0, np.float32)
    for index, chunk in enumerate(chunks):
        if index == 0:
            weight = triangle(chunk.shape[-1])
            audio = np.zeros((*chunk.shape[:-1], 0), np.float32)
        length = chunk.shape[-1]
        audio, weights = _at_least(audio, length), _at_least(weights, length)
        audio[..., :length] += weight[:length] * chunk
        weights[:length] += weight[:length]
        yield audio[..., :stride] / weights[:stride]
        audio, weights = audio[..., stride:], weights[stride:]
    if audio.shape[-1]:
        yield audio / weights


def overlap_add(chunks: Sequence[NDArray[np.float32]], stride: int) -> NDArray[np.float32]:
    """All that `mixed` gives, in one; one chunk is itself."""
    return chunks[0] if len(chunks) == 1 else np.concatenate(list(mixed(chunks, stride)), axis=-1)


def _at_least(array: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    missing = max(0, length - array.shape[-1])
    return np.concatenate([array, np.zeros((*array.shape[:-1], missing), np.float32)], axis=-1)
