"""Resampling to an exact length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from hemiola.errors import AudioError
from hemiola.timebase import Timebase

# Far above this soxr works for hours on a handful of samples.
_MOST = 1000


def resampled_length(length: int, from_hz: int, to_hz: int) -> int:
    """Samples at `to_hz` that last nearest to `length` samples at `from_hz`: a half rounds up, and one is the least."""
    return max(1, Timebase(to_hz, 1).samples(Timebase(from_hz, 1).seconds(length)))


def resampled(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """Blocks of float32 [channels, n], one after another -> what `resample` makes of all, block by block.

    In memory that does not grow with them. Raises AudioError as `resample` does.
    """
    if from_hz == to_hz:
        yield from blocks
        return
    taken = given = 0
    stream, last = None, np.zeros((0, 0), np.float32)
    for block in blocks:
        if stream is None:
            _refuse_rates(from_hz, to_hz)
            stream, last = soxr.ResampleStream(from_hz, to_hz, block.shape[0], "float32", quality="HQ"), block[:, :0]
        taken += block.shape[1]
        heard = stream.resample_chunk(np.ascontiguousarray(block.T)).T
        given += heard.shape[1]
        yield heard
    if stream is not None:
        length = resampled_length(taken, from_hz, to_hz)
        end = stream.resample_chunk(np.ascontiguousarray(last.T), last=True).T[:, : length - given]
        yield np.pad(end, ((0, 0), (0, length - given - end.shape[1])))


def resample(samples: np.ndarray, from_hz: int, to_hz: int, length: int | None = None) -> np.ndarray:
    """Float32 [channels, n] at `from_hz` -> float32 [channels, length] at `to_hz`; soxr, quality HQ.

    `length` is resampled_length(n) unless another is given: cut, or silent after the end. Raises AudioError for a
    rate that is not a positive whole number, or one that soxr cannot reach.
    """
    try:
        _refuse_rates(from_hz, to_hz)
        length = length or resampled_length(samples.shape[1], from_hz, to_hz)
        if from_hz == to_hz:
            return samples
        # A duration that is no whole number of samples at the old rate may end just after the last of them; there the
        # resampler goes on as it does between samples.
        ends_later = length > resampled_length(samples.shape[1], from_hz, to_hz)
        padded = np.pad(samples, ((0, 0), (0, 1))) if ends_later else samples
        heard = soxr.resample(padded.T, from_hz, to_hz, quality="HQ").T[:, :length]
    except (TypeError, ValueError, RuntimeError) as error:
        raise AudioError(f"cannot resample from {from_hz} to {to_hz} Hz: {error}") from error
    missing = length - heard.shape[1]
    return np.ascontiguousarray(np.pad(heard, ((0, 0), (0, missing))), dtype=np.float32)


def _refuse_rates(from_hz: int, to_hz: int) -> None:
    if max(from_hz, to_hz) > _MOST * min(from_hz, to_hz):
        raise AudioError(f"cannot resample from {from_hz} to {to_hz} Hz: they are more than {_MOST} times apart")
