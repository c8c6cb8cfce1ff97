"""What a codec makes of audio: codes of the whole, and of a part of a stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Encoded:
    """What a codec makes of audio; `length` samples come back from it.

    chunks: codes int32 [B, codebooks, frames], one array unless the codec works in chunks. scales: beside each chunk
    a float32 [B, 1], or None where the codec does not normalise. batched: whether the audio had a batch axis.
    """

    chunks: tuple[NDArray[np.int32], ...]
    scales: tuple[NDArray[np.float32], ...] | None
    length: int
    batched: bool = True

    @classmethod
    def of(cls, parts: Iterable[Part], length: Callable[[], int], chunked: bool) -> Encoded:
        """What `EncodecModel.encode` gives, of the parts of one piece; its samples are asked for after the last part.

        Parts are copied to one place as they come and let go. Kept as they are, small arrays among those of the layers,
        they would keep malloc from using that memory again for the next part: a gigabyte an hour.
        """
        codes, shapes, scales = bytearray(), [], []
        for part in parts:
            codes += part.codes.astype(np.int32, copy=False).tobytes()
            shapes.append(part.codes.shape)
            scales += [] if part.scale is None else [float(part.scale[0, 0])]
        ends = np.cumsum([0, *map(math.prod, shapes)]).tolist()
        numbers = np.frombuffer(codes, np.int32)
        pieces = [numbers[start:end].reshape(shape) for start, end, shape in zip(ends, ends[1:], shapes)]
        if not chunked:
            pieces = [np.concatenate(pieces, axis=-1)] if pieces else []
        loudness = tuple(np.array([[scale]], np.float32) for scale in scales)
        return cls(tuple(pieces), loudness or None, length(), batched=False)

    def parts(self, frames: int) -> Iterator[Part]:
        """What `EncodecModel.decode_stream` takes: chunks with their scales, or else `frames` frames at a time."""
        if len(self.chunks) > 1 or self.scales is not None:
            yield from (Part(*each) for each in zip(self.chunks, self.scales or (None,) * len(self.chunks)))
            return
        codes = self.chunks[0]
        for start in range(0, codes.shape[-1], frames):
            yield Part(codes[..., start : start + frames])


@dataclass(frozen=True, eq=False)
class Part:
    """A stretch of a stream of codes: codes int32 [B, codebooks, frames], and a chunk's scale float32 [B, 1]."""

    codes: NDArray[np.int32]
    scale: NDArray[np.float32] | None = None
