"""Functions as machine code: numba makes it when they are first called, and it is kept for the next process.

Nobody needs a compiler. What numba cannot say in Python stands beside this as intrinsics of LLVM.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from numba import njit
from numba.core.caching import FunctionCache

# Linux's numbers: of the call, of what it does, and of what is asked for.
_ARCH_PRCTL, _ASK_FOR, _TILES = 158, 0x1023, 18
# No number is infinite or missing, and sums may be made in any order.
_FAST = {"nnan", "ninf", "nsz", "arcp", "contract", "reassoc"}


def supported(*features: str) -> bool:
    """Whether this machine's processor has all of them, by LLVM's names."""
    host = llvm.get_host_cpu_features()
    return os.name == "posix" and all(host.get(name, False) for name in features)


@functools.cache
def tiles_granted() -> bool:
    """Whether the processor multiplies tiles of bytes (AMX), and Linux lets this process do so, which has to ask."""
    if not supported("amx-tile", "amx-int8") or (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return False
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ASK_FOR, _TILES) == 0


def compiled(function: Callable[..., Any]) -> Any:
    """The function as machine code that lets other threads run; kept for the next process where there is a place."""
    machine_code = njit(nogil=True, fastmath=_FAST, error_model="numpy")(function)
    place = numba.config.CACHE_DIR
    try:
        numba.config.CACHE_DIR = str(_shelf())
        machine_code._cache = _Kept(function)
    except RuntimeError:  # there is no such place, or nobody has a home
        pass
    finally:
        numba.config.CACHE_DIR = place
    return machine_code


class _Kept(FunctionCache):
    """Numba's cache of a function; a full disk or a damaged file there costs time, and nothing else."""

    def load_overload(self, signature: Any, context: Any) -> Any:
        try:
            return super().load_overload(signature, context)
        except Exception:  # what unpickling a damaged file may raise
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        with suppress(Exception):
            super().save_overload(signature, data)


@functools.cache
def _shelf() -> Path:
    """Where machine code is kept: a folder for each state of its sources, for numba would look at one of them alone.

    What was made where tiles are granted is not taken where they are not.
    """
    package = Path(__file__).parents[1]
    sources = b"".join(each.read_bytes() for each in sorted(package.rglob("*_numba.py")))
    home = numba.config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    tiles = "-tiles" if tiles_granted() else ""
    return Path(home) / "hemiola" / f"kernels-{hashlib.sha256(sources).hexdigest()[:12]}{tiles}"
