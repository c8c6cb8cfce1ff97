"""The windows in which EnCodec at 48 kHz codes, and the overlap-add that joins them again."""

from __future__ import annotations

from collections.abc import Sequence

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


def overlap_add(chunks: Sequence[NDArray[np.float32]], stride: int) -> NDArray[np.float32]:
    """Chunks [..., samples] that start `stride` apart -> their weighted mean [..., up to the last sample of any].

    The first chunk is the longest. A chunk is whole frames long, so the last but one may end after the last.
    """
    if len(chunks) == 1:
        return chunks[0]
    weight = triangle(chunks[0].shape[-1])
    total = max(index * stride + chunk.shape[-1] for index, chunk in enumerate(chunks))
    audio = np.zeros((*chunks[0].shape[:-1], total), np.float32)
    weights = np.zeros(total, np.float32)
    for index, chunk in enumerate(chunks):
        place = slice(index * stride, index * stride + chunk.shape[-1])
        audio[..., place] += weight[: chunk.shape[-1]] * chunk
        weights[place] += weight[: chunk.shape[-1]]
    audio /= weights
    return audio
