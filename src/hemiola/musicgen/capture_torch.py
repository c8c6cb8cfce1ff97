"""What only CUDA has: work recorded as a graph and launched at once, and memory that is copied from without waiting."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Work = Callable[[], object]

_ONE_AT_A_TIME = threading.Lock()  # torch records one graph at a time
_REHEARSALS = 2


class Capture:
    """Makes graphs of work on a CUDA device; where that fails, it says so once, and work stays as it is."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.works = device.type == "cuda"
        self._beside: Any = None

    def pool(self) -> Any:
        """Memory for graphs that are never launched side by side, or None where there are none."""
        return torch.cuda.graph_pool_handle() if self.works else None

    def __call__(self, work: Work, rehearsal: Work, pool: Any) -> Work | None:
        """A launch of all of `work`, or None where there is no such thing.

        `rehearsal` does the same, and leaves everything ready for it to be done again. Nothing else is carried out.
        """
        if not self.works:
            return None
        try:
            with _ONE_AT_A_TIME, torch.cuda.device(self.device):
                # Always the same stream, or graphs would not share their memory.
                self._beside = self._beside or torch.cuda.Stream()
                return _graph(work, rehearsal, pool, self._beside).replay
        except RuntimeError as error:
            self.works = False
            # What ends a failed recording fails as well, and says less.
            reason = str(error.__context__ or error).strip().partition("\n")[0]
            warnings.warn(
                f"steps are launched one operation after another, more slowly, for they cannot be recorded: {reason}",
                stacklevel=2,
            )
            return None


def _graph(work: Work, rehearsal: Work, pool: Any, beside: Any) -> Any:
    """The graph of `work`, recorded on the stream `beside`; the current one is then the same as before."""
    current = torch.cuda.current_stream()
    beside.wait_stream(current)
    with torch.cuda.stream(beside):
        # Libraries ask for their memory and load their code when they are first used: not while something is recorded.
        for _ in range(_REHEARSALS):
            rehearsal()
    current.wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads may go on with work of their own meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=beside, capture_error_mode="thread_local"):
            work()
    finally:
        # torch stays on its own stream when a recording fails.
        torch.cuda.set_stream(current)
    return graph


class Ferry:
    """Brings arrays to a tensor, one after the other; to a CUDA device through two pinned buffers by turns.

    Work that was launched before reads what the tensor held before. Only what asks for a third crossing waits, until
    the first is over: whoever launches is never further ahead of the device than that.
    """

    def __init__(self, target: Tensor) -> None:
        self._target = target
        self._berths = [_berth(target) for _ in range(2)] if target.is_cuda else []

    def __call__(self, array: np.ndarray) -> None:
        """Fill the tensor, or its first rows, with an array of its dtype."""
        rows = slice(len(array))
        if not self._berths:
            self._target[rows] = torch.from_numpy(array)
            return
        self._berths.reverse()
        buffer, crossed = self._berths[0]
        crossed.synchronize()
        buffer[rows] = torch.from_numpy(array)
        self._target[rows].copy_(buffer[rows], non_blocking=True)
        crossed.record(torch.cuda.current_stream(self._target.device))


def _berth(target: Tensor) -> tuple[Tensor, Any]:
    """A buffer for what is on its way, and what knows when it is empty again."""
    return torch.empty(target.shape, dtype=target.dtype, pin_memory=True), torch.cuda.Event(blocking=True)
