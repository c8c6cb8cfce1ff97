"""Streams in numpy: blocks of any size go into a codec, and what is final comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Block = NDArray[Any]
Feed = Callable[[Block, bool], Block]  # a block, whether it is the last -> what is final


class Gathered:
    """A feed that wants the whole at once, fed in blocks all the same."""

    def __init__(self, feed: Feed) -> None:
        self._feed, self._blocks = feed, list[Block]()

    def __call__(self, block: Block, last: bool) -> Block:
        """Nothing until the last block, then all."""
        self._blocks.append(block)
        return self._feed(np.concatenate(self._blocks, axis=-1) if last else block[..., :0], last)


def fed(feed: Feed, blocks: Iterable[Block], is_local: bool = True) -> Iterator[Block]:
    """What `feed` gives for blocks [..., n], one after another; the last is known when no other follows."""
    feed = feed if is_local else Gathered(feed)
    waiting: Block | None = None
    for block in blocks:
        if waiting is not None:
            yield feed(waiting, False)
        waiting = block
    if waiting is not None:
        yield feed(waiting, True)


def cut(blocks: Iterable[Block], length: int, stride: int) -> Iterator[Block]:
    """Blocks [..., n], one after another, cut where `chunks.windows` cuts the whole."""
    held: Block | None = None
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=-1)
        while held.shape[-1] >= length:
            yield held[..., :length]
            held = held[..., stride:]
    while held is not None and held.shape[-1]:
        yield held[..., :length]
        held = held[..., stride:]
