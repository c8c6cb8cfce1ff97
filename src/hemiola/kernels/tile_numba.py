"""Products with packed matrices, a tile of outputs and rows at a time: their sums stay in registers.

A packed matrix has its outputs in blocks of `LANES`, `BLOCKS` of them side by side, and of each output as many inputs
as fill a group: two bfloat16, which become float32 by a shift, one float32, or three bytes of one. What a thread reads
of it is one stretch of memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hemiola.kernels import compiling_numba as compiling
from hemiola.kernels.vectors_numba import (
    FLOAT,
    FLOATS,
    INT64,
    INTS,
    LANES,
    NOTHING,
    everywhere,
    external,
    fetch,
    load,
    load_threes,
    stepped,
)

HALVES, THREES, WHOLES = 2, 3, 4  # what a packed matrix holds: so many bytes of every float32
INPUTS = {HALVES: 2, THREES: 1, WHOLES: 1}  # in a group
GROUP_BYTES = {HALVES: 4, THREES: 3, WHOLES: 4}  # of one output
BLOCKS, ROWS = 4, 6  # whose sums fit into the registers
_COUNTS = {HALVES: (1, 2, BLOCKS), WHOLES: (1, 2, BLOCKS)}  # of blocks that go together, where it is not one or all
_FEATURES = {THREES: ("avx512f", "avx512vbmi")}

_AHEAD = 1536  # bytes: so far before they are read memory is asked for them; by trial


def supported(kind: int) -> bool:
    """Whether this machine has what products with matrices of this kind are made of."""
    return compiling.supported(*_FEATURES.get(kind, ("avx512f",)))


@intrinsic(prefer_literal=True)
def tile(
    context: Any,
    kind: Any,
    blocks: Any,
    rows: Any,
    packed: Any,
    apart: Any,
    onward: Any,
    given: Any,
    between: Any,
    depth: Any,
    out: Any,
    stride: Any,
    adding: Any,
) -> Any:
    """Products of `blocks` blocks of outputs, 1 or BLOCKS, with up to ROWS rows, into or onto `out`; of WHOLES, 2 too.

    The kind is a constant. Addresses: packed [depth, blocks, LANES] groups, blocks `apart` bytes from each other and
    the next groups `onward` bytes on; given float32 [rows, depth] groups, its rows `between` bytes apart; out float32
    [rows, blocks * LANES], its rows `stride` bytes apart. Of three bytes, 16 behind the last are read.
    """

    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        shape = builder.add(builder.mul(arguments[1], INT64(ROWS)), arguments[2])
        done = builder.append_basic_block("done")
        choice = builder.switch(shape, done)
        for count, size in itertools.product(_COUNTS.get(kind.literal_value, (1, BLOCKS)), range(1, ROWS + 1)):
            case = builder.append_basic_block(f"tile_{count}_{size}")
            choice.add_case(INT64(count * ROWS + size), case)
            builder.position_at_end(case)
            builder.call(_tile(builder.module, kind.literal_value, count, size), arguments[3:])
            builder.branch(done)
        builder.position_at_end(done)

    return types.void(kind, *[types.intp] * 10, types.boolean), generate


def _tile(module: Any, kind: int, blocks: int, rows: int) -> Any:
    """A function that stands in the module once, however often it is called: that keeps compiling short."""
    name = f"hemiola_tile_{kind}_{blocks}_{rows}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(NOTHING, [INT64] * 8 + [ir.IntType(1)]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    packed, apart, onward, given, between, depth, out, stride, adding = function.args
    entry, loop, done = (function.append_basic_block(each) for each in ("entry", "loop", "done"))
    zeros = ir.Constant(FLOATS, [0] * LANES)
    given_bytes = 4 * INPUTS[kind]  # a group of a row

    builder = ir.IRBuilder(entry)
    builder.branch(loop)

    builder.position_at_end(loop)
    group = builder.phi(INT64)
    before = [[builder.phi(zeros.type) for _ in range(rows)] for _ in range(blocks)]
    start = builder.add(given, builder.mul(group, INT64(given_bytes)))
    spread = [_spread(builder, INPUTS[kind], stepped(builder, start, row, between)) for row in range(rows)]
    start = builder.add(packed, builder.mul(group, onward))
    after = []
    for block in range(blocks):
        place = stepped(builder, start, block, apart)
        fetch(builder, builder.add(place, INT64(_AHEAD)))
        weights = load_threes(builder, place) if kind == THREES else load(builder, INTS, place)
        after.append(_added(builder, kind, before[block], spread, weights))
    next_group = builder.add(group, INT64(1))
    for phi, first, following in [
        (group, INT64(0), next_group),
        *((old, zeros, new) for olds, news in zip(before, after) for old, new in zip(olds, news)),
    ]:
        phi.add_incoming(first, entry)
        phi.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", next_group, depth), loop, done)

    builder.position_at_end(done)
    for block in range(blocks):
        place = INT64(block * 4 * LANES)
        for row, total in enumerate(after[block]):
            target = builder.inttoptr(builder.add(stepped(builder, out, row, stride), place), FLOATS.as_pointer())
            onto = builder.select(adding, builder.load(target, align=4), zeros)
            builder.store(builder.fadd(total, onto), target, align=4)
    builder.ret_void()
    return function


def _spread(builder: Any, inputs: int, start: Any) -> list[Any]:
    """One group of a row, each of its inputs the same in all lanes."""
    places = [stepped(builder, start, each, INT64(4)) for each in range(inputs)]
    return [everywhere(builder, load(builder, FLOAT, place)) for place in places]


def _added(builder: Any, kind: int, totals: Sequence[Any], spread: Sequence[Sequence[Any]], weights: Any) -> list[Any]:
    """The sums of a block's rows, with one more group of weights."""
    parts = [weights]
    if kind == HALVES:
        low = builder.shl(weights, ir.Constant(INTS, [16] * LANES))
        parts = [low, builder.and_(weights, ir.Constant(INTS, [0xFFFF0000] * LANES))]
    fused = external(builder, f"llvm.fma.v{LANES}f32", FLOATS, *[FLOATS] * 3)
    for index, bits in enumerate(parts):
        numbers = builder.bitcast(bits, FLOATS)
        totals = [builder.call(fused, [numbers, given[index], total]) for total, given in zip(totals, spread)]
    return list(totals)
