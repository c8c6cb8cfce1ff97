"""Memory for what kernels read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LINE = 64  # bytes that memory gives a processor at once
_SPARE = 64  # bytes behind the end, for a vector that reaches over it


def lined(shape: Sequence[int], number: DTypeLike, *, zeros: bool = False) -> NDArray[Any]:
    """An array of zeros or with whatever stands in it, that begins with a line of the processor's cache.

    Where the system has large pages and the array is large, numpy asks for them: torch does not, and a page of 4 KB
    has to be looked up every 64 lines.
    """
    size = math.prod(shape) * np.dtype(number).itemsize
    room = (np.zeros if zeros else np.empty)(size + LINE + _SPARE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + size].view(number).reshape(shape)
