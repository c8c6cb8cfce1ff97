"""What is made of a module's weights before they are used: kept, and made anew when they have changed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

Made = TypeVar("Made")
_Seen = tuple["weakref.ref[nn.Parameter]", int, int]  # a parameter, where it stood, and how often it had been changed

_KEPT: weakref.WeakKeyDictionary[nn.Module, dict[Any, tuple[list[_Seen], Any]]] = weakref.WeakKeyDictionary()


def made_of(module: nn.Module, make: Callable[..., Made], *arguments: Any) -> Made:
    """make(module, *arguments), which depends on the module's own parameters and holds on to nothing but them.

    A change behind torch's back (of `weight.data`) is not seen. Of weights that were made for inference alone torch
    counts no changes: what is made of them is made every time.
    """
    parameters = list(module.parameters())
    if any(each.is_inference() for each in parameters):
        return make(module, *arguments)
    kept = _KEPT.setdefault(module, {})
    key = make, *arguments
    if key not in kept or not _same(kept[key][0], parameters):
        kept[key] = [_seen(each) for each in parameters], make(module, *arguments)
    made: Made = kept[key][1]
    return made


def _seen(parameter: nn.Parameter) -> _Seen:
    return weakref.ref(parameter), parameter.data_ptr(), parameter._version


def _same(seen: list[_Seen], parameters: list[nn.Parameter]) -> bool:
    # An address alone may be another tensor's by now.
    return len(seen) == len(parameters) and all(
        before[0]() is each and before[1:] == _seen(each)[1:] for before, each in zip(seen, parameters)
    )
