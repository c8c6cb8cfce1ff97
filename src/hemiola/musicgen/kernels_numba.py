"""What numba cannot say in Python: products with packed matrices, and threads of a team that meet.

Numba makes machine code when a function is first called, and keeps it: nobody needs a compiler. A packed matrix has its
outputs in blocks of `LANES`, and of each output as many inputs side by side as fill a group of 4 bytes: four signed
bytes, which one instruction multiplies and adds up, two bfloat16, which become float32 by a shift, or one float32.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.caching import FunctionCache
from numba.extending import intrinsic

LANES = 16
BYTES, HALVES, FLOATS = 0, 1, 2  # what a packed matrix holds: int8, bfloat16 or float32
INPUTS = {BYTES: 4, HALVES: 2, FLOATS: 1}  # in a group
BLOCKS, ROWS = 4, 6  # whose sums fit into the registers
FEATURES = {BYTES: ("avx512f", "avx512vnni"), HALVES: ("avx512f",), FLOATS: ("avx512f",)}

_INT32, _INT64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_INTS, _FLOATS = ir.VectorType(_INT32, LANES), ir.VectorType(_FLOAT, LANES)
_VECTOR_BYTES = 4 * LANES
_PATIENCE = 4096  # looks at a count before other threads are let run
# No number is infinite or missing, and sums may be made in any order.
_FAST = {"nnan", "ninf", "nsz", "arcp", "contract", "reassoc"}


def supported(kind: int) -> bool:
    """Whether this machine has what products with matrices of this kind are made of."""
    host = llvm.get_host_cpu_features()
    return os.name == "posix" and all(host.get(name, False) for name in FEATURES[kind])


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
    """Where machine code is kept: a folder for each state of these files, for numba would look at one of them alone."""
    sources = b"".join(each.read_bytes() for each in sorted(Path(__file__).parent.glob("*_numba.py")))
    home = numba.config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "hemiola" / f"kernels-{hashlib.sha256(sources).hexdigest()[:12]}"


@intrinsic(prefer_literal=True)
def tile(
    context: Any,
    kind: Any,
    blocks: Any,
    rows: Any,
    packed: Any,
    apart: Any,
    given: Any,
    depth: Any,
    steps: Any,
    scales: Any,
    excess: Any,
    out: Any,
    stride: Any,
    adding: Any,
) -> Any:
    """Products of `blocks` blocks of outputs, 1 or BLOCKS, with up to ROWS rows, into or onto `out`.

    The kind is a constant. Addresses: packed [blocks, depth, LANES] groups, its blocks `apart` bytes from each other;
    given [rows, depth] groups, of unsigned bytes or of float32; out float32 [rows, blocks * LANES], its rows `stride`
    bytes apart. Sums of bytes lose their excess int32 [outputs], and are multiplied by steps float32 [rows] and scales
    float32 [outputs].
    """

    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        shape = builder.add(builder.mul(arguments[1], _INT64(ROWS)), arguments[2])
        done = builder.append_basic_block("done")
        choice = builder.switch(shape, done)
        for count, size in itertools.product((1, BLOCKS), range(1, ROWS + 1)):
            case = builder.append_basic_block(f"tile_{count}_{size}")
            choice.add_case(_INT64(count * ROWS + size), case)
            builder.position_at_end(case)
            builder.call(_tile(builder.module, kind.literal_value, count, size), arguments[3:])
            builder.branch(done)
        builder.position_at_end(done)

    return types.void(kind, *[types.intp] * 11, types.boolean), generate


def _tile(module: Any, kind: int, blocks: int, rows: int) -> Any:
    """A function that stands in the module once, however often it is called: that keeps compiling short."""
    name = f"hemiola_tile_{kind}_{blocks}_{rows}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_INT64] * 9 + [ir.IntType(1)]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    packed, apart, given, depth, steps, scales, excess, out, stride, adding = function.args
    entry, loop, done = (function.append_basic_block(each) for each in ("entry", "loop", "done"))
    zeros = ir.Constant(_INTS if kind == BYTES else _FLOATS, [0] * LANES)
    group_bytes = 4 * INPUTS[kind] if kind != BYTES else 4  # of a row

    builder = ir.IRBuilder(entry)
    row_bytes = builder.mul(depth, _INT64(group_bytes))
    builder.branch(loop)

    builder.position_at_end(loop)
    group = builder.phi(_INT64)
    before = [[builder.phi(zeros.type) for _ in range(rows)] for _ in range(blocks)]
    start = builder.add(given, builder.mul(group, _INT64(group_bytes)))
    spread = [_spread(builder, kind, _stepped(builder, start, row, row_bytes)) for row in range(rows)]
    start = builder.add(packed, builder.mul(group, _INT64(_VECTOR_BYTES)))
    after = []
    for block in range(blocks):
        weights = _load(builder, _INTS, _stepped(builder, start, block, apart))
        after.append(_added(builder, kind, before[block], spread, weights))
    next_group = builder.add(group, _INT64(1))
    for phi, first, following in [
        (group, _INT64(0), next_group),
        *((old, zeros, new) for olds, news in zip(before, after) for old, new in zip(olds, news)),
    ]:
        phi.add_incoming(first, entry)
        phi.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", next_group, depth), loop, done)

    builder.position_at_end(done)
    for block in range(blocks):
        place = _INT64(block * _VECTOR_BYTES)
        if kind == BYTES:
            scale = _load(builder, _FLOATS, builder.add(scales, place))
            surplus = _load(builder, _INTS, builder.add(excess, place))
        for row, total in enumerate(after[block]):
            if kind == BYTES:
                step = _everywhere(builder, _load(builder, _FLOAT, _stepped(builder, steps, row, _INT64(4))))
                whole = builder.sitofp(builder.sub(total, surplus), _FLOATS)
                total = builder.fmul(whole, builder.fmul(step, scale))
            target = builder.inttoptr(builder.add(_stepped(builder, out, row, stride), place), _FLOATS.as_pointer())
            onto = builder.select(adding, builder.load(target, align=4), ir.Constant(_FLOATS, [0] * LANES))
            builder.store(builder.fadd(total, onto), target, align=4)
    builder.ret_void()
    return function


def _stepped(builder: Any, address: Any, count: int, size: Any) -> Any:
    return builder.add(address, builder.mul(_INT64(count), size))


def _load(builder: Any, kind: Any, address: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


def _spread(builder: Any, kind: int, start: Any) -> list[Any]:
    """One group of a row, each of its operands the same in all lanes."""
    if kind == BYTES:
        return [_everywhere(builder, _load(builder, _INT32, start))]
    places = [_stepped(builder, start, each, _INT64(4)) for each in range(INPUTS[kind])]
    return [_everywhere(builder, _load(builder, _FLOAT, place)) for place in places]


def _everywhere(builder: Any, value: Any) -> Any:
    nothing = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = builder.insert_element(nothing, value, _INT32(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_INTS, [0] * LANES))


def _added(builder: Any, kind: int, totals: Sequence[Any], spread: Sequence[Sequence[Any]], weights: Any) -> list[Any]:
    """The sums of a block's rows, with one more group of weights."""
    if kind == BYTES:
        dot = _external(builder, "llvm.x86.avx512.vpdpbusd.512", _INTS, 3)
        return [builder.call(dot, [total, *given, weights]) for total, given in zip(totals, spread)]
    parts = [weights]
    if kind == HALVES:
        low = builder.shl(weights, ir.Constant(_INTS, [16] * LANES))
        parts = [low, builder.and_(weights, ir.Constant(_INTS, [0xFFFF0000] * LANES))]
    fused = _external(builder, f"llvm.fma.v{LANES}f32", _FLOATS, 3)
    for index, bits in enumerate(parts):
        numbers = builder.bitcast(bits, _FLOATS)
        totals = [builder.call(fused, [numbers, given[index], total]) for total, given in zip(totals, spread)]
    return list(totals)


def _external(builder: Any, name: str, kind: Any, count: int) -> Any:
    module = builder.module
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(kind, [kind] * count), name)


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
        place = builder.inttoptr(arguments[0], _INT64.as_pointer())
        return builder.atomic_rmw("add", place, _INT64(1), "seq_cst")

    return types.int64(types.intp), generate


@intrinsic
def _count(context: Any, address: Any) -> Any:
    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.load_atomic(builder.inttoptr(arguments[0], _INT64.as_pointer()), "acquire", 8)

    return types.int64(types.intp), generate


@intrinsic
def _pause(context: Any) -> Any:
    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        builder.call(_external(builder, "llvm.x86.sse2.pause", ir.VoidType(), 0), [])

    return types.void(), generate


@intrinsic
def _let_others_run(context: Any) -> Any:
    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        builder.call(_external(builder, "sched_yield", _INT32, 0), [])

    return types.void(), generate
