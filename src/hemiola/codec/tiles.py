"""Tiles: long audio goes through a codec in pieces that fit a cache, and comes out as if it had been one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemiola.codec import plan
from hemiola.codec.config import EncodecConfig

# What the widest layer may take: on a CPU its share of the cache, on a GPU as much as keeps all of it at work.
CACHE_BYTES = 4 << 20
DEVICE_BYTES = 256 << 20
LEAST_FRAMES = 16  # fewer do not pay for reading the weights of the narrow, deep layers

Feed = Callable[[NDArray[Any], bool], NDArray[Any]]


def tile_frames(config: EncodecConfig, rows: int, bytes_at_once: int) -> int | None:
    """Frames in a tile of so many rows, or None where the codec wants to see the whole."""
    if not plan.is_local(plan.encoder_plan(config)):
        return None
    bytes_a_frame = config.timebase.samples_of(1) * config.num_filters * 4 * rows
    return max(LEAST_FRAMES, bytes_at_once // bytes_a_frame)


def encode(feed: Feed, audio: NDArray[Any], config: EncodecConfig, bytes_at_once: int) -> NDArray[Any]:
    """All that a stream makes of audio [B, channels, samples], fed tile after tile: codes or latents [B, ., frames]."""
    rows, samples = len(audio), audio.shape[-1]
    size = tile_frames(config, rows, bytes_at_once)
    tile = samples if size is None else config.timebase.samples_of(size)
    return _joined(feed, audio, tile, config.timebase.frames(samples))


def decode(feed: Feed, codes: NDArray[Any], config: EncodecConfig, bytes_at_once: int) -> NDArray[Any]:
    """All that a stream makes of codes [B, K, frames], fed tile after tile: audio [B, channels, samples]."""
    rows, frames = len(codes), codes.shape[-1]
    tile = tile_frames(config, rows, bytes_at_once) or frames
    return _joined(feed, codes, tile, config.timebase.samples_of(frames))


def _joined(feed: Feed, array: NDArray[Any], tile: int, total: int) -> NDArray[Any]:
    done, whole = 0, None
    for start in range(0, array.shape[-1], tile):
        part = feed(array[..., start : start + tile], start + tile >= array.shape[-1])
        if whole is None:
            # At its full length from the start: joining parts in the end would take the memory twice.
            whole = np.empty((*part.shape[:-1], total), part.dtype)
        whole[..., done : done + part.shape[-1]] = part
        done += part.shape[-1]
    if whole is None or done != total:
        raise AssertionError(f"{done} of {total} came out")
    return whole
