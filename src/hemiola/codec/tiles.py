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
LEAST_FRAMES = 16
# So many go through the deepest layers at once, which are short and have large weights to read.
DEEP_FRAMES = 512

Feed = Callable[[NDArray[Any], bool], NDArray[Any]]


def tile_frames(config: EncodecConfig, rows: int, bytes_at_once: int) -> int | None:
    """Frames in a tile of so many rows, or None where the codec wants to see the whole."""
    if not plan.is_local(plan.encoder_plan(config)):
        return None
    bytes_a_frame = config.timebase.samples_of(1) * config.num_filters * 4 * rows
    return max(LEAST_FRAMES, bytes_at_once // bytes_a_frame)


def deep(tile: int | None) -> int | None:
    """Frames at once in the deepest layers, where all others see `tile` of them."""
    return None if tile is None else max(tile, DEEP_FRAMES)


def encode(feed: Feed, audio: NDArray[Any], config: EncodecConfig, frames: int | None) -> NDArray[Any]:
    """What a stream makes of audio [B, channels, samples], fed so many frames at a time: codes or latents [B, ., F]."""
    samples = audio.shape[-1]
    tile = samples if frames is None else config.timebase.samples_of(frames)
    return _joined(feed, audio, tile, config.timebase.frames(samples))


def decode(feed: Feed, codes: NDArray[Any], config: EncodecConfig, frames: int | None) -> NDArray[Any]:
    """What a stream makes of codes [B, K, F], fed so many frames at a time: audio [B, channels, samples]."""
    total = codes.shape[-1]
    return _joined(feed, codes, frames or total, config.timebase.samples_of(total))


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
