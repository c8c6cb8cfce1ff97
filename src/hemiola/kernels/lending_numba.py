"""Arrays that are lent: whoever called keeps them, and nobody counts who looks at them.

Numba counts each slice with an atomic instruction: of an array that several threads slice, the count goes from one's
cache to the other's. A head's attention took half as long again for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numba import types
from numba.core.cgutils import unpack_tuple
from numba.extending import intrinsic


@intrinsic
def lent(context: Any, holder: Any) -> Any:
    """The same array, or tuple with arrays in it, whose slices are not counted; its owner must outlive it."""

    def generate(builder_context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return _lent(builder_context, builder, holder, arguments[0])

    return holder(holder), generate


def _lent(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.BaseTuple):
        parts = zip(kind, unpack_tuple(builder, value, len(kind)))
        return context.make_tuple(builder, kind, [_lent(context, builder, *each) for each in parts])
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        for name in ("meminfo", "parent"):
            setattr(array, name, getattr(array, name).type(None))
        return array._getvalue()
    return value
