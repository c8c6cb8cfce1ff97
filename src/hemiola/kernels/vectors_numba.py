"""Vectors of a processor with AVX-512, as LLVM is told of them: the words that the kernels are written in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import for_range
from numba.extending import intrinsic

from hemiola.kernels.memory import LINE

LANES = 16  # of 4 bytes

BYTE, INT32, INT64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
FLOAT, NOTHING = ir.FloatType(), ir.VoidType()
INTS, FLOATS = ir.VectorType(INT32, LANES), ir.VectorType(FLOAT, LANES)
_THREE = 3  # bytes of a number that has lost its last


def stepped(builder: Any, address: Any, count: int, size: Any) -> Any:
    """The address `count` times `size` bytes further on."""
    return builder.add(address, builder.mul(INT64(count), size))


def load(builder: Any, kind: Any, address: Any) -> Any:
    """What stands at an address."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


def store(builder: Any, value: Any, address: Any) -> None:
    """Write a value down at an address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=4)


def load_threes(builder: Any, address: Any) -> Any:
    """Float32 of which the last byte is not kept, and is 0; 16 bytes behind them are read too."""
    size = 4 * LANES
    kind = ir.VectorType(BYTE, size)
    packed = builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)
    places = [place for lane in range(LANES) for place in (size, *(_THREE * lane + byte for byte in range(_THREE)))]
    spread = builder.shuffle_vector(
        packed, ir.Constant(kind, [0] * size), ir.Constant(ir.VectorType(INT32, size), places)
    )
    return builder.bitcast(spread, FLOATS)


def everywhere(builder: Any, value: Any) -> Any:
    """A vector that has the value in all lanes."""
    nothing = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = builder.insert_element(nothing, value, INT32(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(INTS, [0] * LANES))


def external(builder: Any, name: str, result: Any, *given: Any) -> Any:
    """A function that LLVM or the C library has."""
    module = builder.module
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, given), name)


def fetch(builder: Any, address: Any) -> None:
    """Ask for the line of memory at an address, which need not be ours: it will be read soon."""
    prefetch = external(builder, "llvm.prefetch.p0", NOTHING, BYTE.as_pointer(), INT32, INT32, INT32)
    reading, near, data = INT32(0), INT32(3), INT32(1)
    builder.call(prefetch, [builder.inttoptr(address, BYTE.as_pointer()), reading, near, data])


@intrinsic
def fetched(context: Any, address: Any, size: Any) -> Any:
    """Ask for so many bytes of memory, lines that will be read soon."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        start, size = arguments
        with for_range(builder, builder.udiv(builder.add(size, INT64(LINE - 1)), INT64(LINE))) as loop:
            fetch(builder, builder.add(start, builder.mul(loop.index, INT64(LINE))))

    return types.void(types.intp, types.intp), generate
