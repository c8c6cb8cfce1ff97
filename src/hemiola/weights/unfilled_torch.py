"""PyTorch modules with shapes and no numbers, for weights that are read anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _Unfilled(TorchFunctionMode):
    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


@contextmanager
def unfilled() -> Iterator[None]:
    """Modules built in here are on torch's meta device, and their initialisation is left out.

    On the meta device `normal_` fills nothing either, but it loads torch's compiler: seconds of every cold start.
    """
    with torch.device("meta"), _Unfilled():
        yield
