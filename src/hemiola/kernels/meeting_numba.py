"""Threads of a team that meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.vectors_numba import INT32, INT64, NOTHING, external

_PATIENCE = 4096  # looks at a count before other threads are let run


@compiled
def meet(counts: np.ndarray, parts: int) -> None:
    """Come to a meeting of `parts` threads and wait for the others, unless somebody has called the meetings off.

    Counts int64 [2, n] hold in the first column how often threads have come, and whether it is all off; begin with 0.
    """
    address = counts.ctypes.data
    expected = (_come(address) // parts + 1) * parts
    looks = 0
    while _count(address) < expected and not _count(address + counts.strides[0]):
        looks += 1
        if looks < _PATIENCE:
            _pause()
        else:
            _let_others_run()


@intrinsic
def _come(context: Any, address: Any) -> Any:
    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        place = builder.inttoptr(arguments[0], INT64.as_pointer())
        return builder.atomic_rmw("add", place, INT64(1), "seq_cst")

    return types.int64(types.intp), generate


@intrinsic
def _count(context: Any, address: Any) -> Any:
    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.load_atomic(builder.inttoptr(arguments[0], INT64.as_pointer()), "acquire", 8)

    return types.int64(types.intp), generate


@intrinsic
def _pause(context: Any) -> Any:
    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        builder.call(external(builder, "llvm.x86.sse2.pause", NOTHING), [])

    return types.void(), generate


@intrinsic
def _let_others_run(context: Any) -> Any:
    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        builder.call(external(builder, "sched_yield", INT32), [])

    return types.void(), generate
