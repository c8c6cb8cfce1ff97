"""Whether kernels are there at all: numba is an extra, and made for some versions of numpy and Python only."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from types import ModuleType


def needing_numba(name: str, otherwise: str) -> ModuleType | None:
    """The module of that name, which needs numba; None where that is not installed.

    Where it is installed and cannot be loaded, a warning says what happens `otherwise`.
    """
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        return importlib.import_module(name)
    except ImportError as error:
        warnings.warn(f"{otherwise}, more slowly, because numba cannot be loaded: {error}", stacklevel=2)
        return None
