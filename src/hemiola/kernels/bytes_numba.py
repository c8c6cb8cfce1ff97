"""Products with matrices of which a weight has a byte, by an instruction that multiplies bytes.

A weight is a whole number from -127 to 127 times what stands for its output. A block has `LANES` outputs; it holds, for
each four inputs, a line with their weights. Rows are such as products with weights in six bits take.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.memory import LINE
from hemiola.kernels.sixes_numba import GROUP, INPUTS, TOGETHER, dot, finished
from hemiola.kernels.sixes_numba import ZERO as SIXES_ZERO
from hemiola.kernels.vectors_numba import (
    FLOATS,
    INT32,
    INT64,
    INTS,
    LANES,
    NOTHING,
    everywhere,
    external,
    fetch,
    load,
    stepped,
)

ZERO = 128  # what is stored of a weight of 0
LARGEST = 127  # of a weight
BLOCKS = 4  # whose sums fit into the registers
_COUNTS = (1, 2, BLOCKS)  # of blocks that go together
_AHEAD = 16  # lines: so far before it is read memory is asked for


@intrinsic
def multiply_blocks(
    context: Any,
    blocks: Any,
    rows: Any,
    weights: Any,
    apart: Any,
    depth: Any,
    given: Any,
    half: Any,
    units: Any,
    steps: Any,
    out: Any,
    stride: Any,
    adding: Any,
) -> Any:
    """What 1, 2 or BLOCKS blocks make of up to TOGETHER rows, into or onto `out`.

    Addresses: weights, the first of `depth` lines, with blocks `apart` bytes from each other; given, rows of two
    halves, each of `half` bytes; units float32 [blocks * LANES] and steps [rows], what is to be multiplied with; out
    float32 [rows, blocks * LANES], its rows `stride` bytes apart.
    """

    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        shape = builder.add(builder.mul(arguments[0], INT64(TOGETHER + 1)), arguments[1])
        done = builder.append_basic_block("done")
        choice = builder.switch(shape, done)
        for count, size in itertools.product(_COUNTS, range(1, TOGETHER + 1)):
            case = builder.append_basic_block(f"blocks_{count}_{size}")
            choice.add_case(INT64(count * (TOGETHER + 1) + size), case)
            builder.position_at_end(case)
            builder.call(_blocks(builder.module, count, size), arguments[2:])
            builder.branch(done)
        builder.position_at_end(done)

    return types.void(*[types.intp] * 11, types.boolean), generate


def _blocks(module: Any, blocks: int, rows: int) -> Any:
    """A function that stands in the module once, however often it is called: that keeps compiling short."""
    name = f"hemiola_blocks_{blocks}_{rows}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(NOTHING, [INT64] * 9 + [ir.IntType(1)]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    weights, apart, depth, given, half, units, steps, out, stride, adding = function.args
    entry, adds, ready, loop, done = (
        function.append_basic_block(each) for each in ("entry", "adds", "ready", "loop", "done")
    )
    sides = range(2 * rows)  # of every row the upper bytes and the lower ones

    # Stored weights are too large by ZERO; each half has its groups' sums behind it.
    builder = ir.IRBuilder(entry)
    groups = builder.udiv(half, INT64(GROUP + 4))
    sums = builder.add(given, builder.mul(groups, INT64(GROUP)))
    builder.branch(adds)
    builder.position_at_end(adds)
    group = builder.phi(INT64)
    totals = [builder.phi(INT32) for _ in sides]
    place = builder.add(sums, builder.mul(group, INT64(4)))
    added = [builder.add(totals[side], load(builder, INT32, stepped(builder, place, side, half))) for side in sides]
    next_group = builder.add(group, INT64(1))
    for phi, first, following in [(group, INT64(0), next_group), *zip(totals, [INT32(0)] * len(sides), added)]:
        phi.add_incoming(first, entry)
        phi.add_incoming(following, adds)
    builder.cbranch(builder.icmp_signed("<", next_group, groups), adds, ready)
    builder.position_at_end(ready)
    firsts = [everywhere(builder, builder.mul(each, INT32(ZERO // SIXES_ZERO))) for each in added]
    builder.branch(loop)

    builder.position_at_end(loop)
    quad = builder.phi(INT64)
    before = [[builder.phi(INTS) for _ in range(blocks)] for _ in sides]
    start, line = builder.add(given, builder.mul(quad, INT64(INPUTS))), builder.mul(quad, INT64(LINE))
    places = [builder.add(stepped(builder, weights, block, apart), line) for block in range(blocks)]
    # Behind the end of these blocks the following ones are asked for.
    is_past = builder.icmp_signed(">=", builder.add(quad, INT64(_AHEAD)), depth)
    onward = builder.select(is_past, builder.mul(apart, INT64(blocks - 1)), INT64(0))
    for place in places:
        fetch(builder, builder.add(builder.add(place, onward), INT64(_AHEAD * LINE)))
    found = [load(builder, INTS, place) for place in places]
    after = []
    for side in sides:
        numbers = everywhere(builder, load(builder, INT32, stepped(builder, start, side, half)))
        after.append([dot(builder, total, each, numbers) for total, each in zip(before[side], found)])
    next_quad = builder.add(quad, INT64(1))
    quad.add_incoming(INT64(0), ready)
    quad.add_incoming(next_quad, loop)
    for olds, first, news in zip(before, firsts, after):
        for old, new in zip(olds, news):
            old.add_incoming(first, ready)
            old.add_incoming(new, loop)
    builder.cbranch(builder.icmp_signed("<", next_quad, depth), loop, done)

    builder.position_at_end(done)
    upper = ir.Constant(FLOATS, [256.0] * LANES)
    fused = external(builder, f"llvm.fma.v{LANES}f32", FLOATS, *[FLOATS] * 3)
    for row, block in itertools.product(range(rows), range(blocks)):
        high, low = (builder.sitofp(after[2 * row + side][block], FLOATS) for side in range(2))
        total, place = builder.call(fused, [high, upper, low]), INT64(block * LINE)
        target, step = builder.add(stepped(builder, out, row, stride), place), builder.add(steps, INT64(4 * row))
        finished(builder, total, builder.add(units, place), step, target, adding)
    builder.ret_void()
    return function


@compiled
def multiply_bytes(
    place: int,
    apart: int,
    depth: int,
    units: int,
    rows: int,
    given: int,
    half: int,
    steps: int,
    block: int,
    last: int,
    out: int,
    stride: int,
    adding: bool,
) -> None:
    """Blocks to `last` of a matrix in bytes, for rows of two halves of so many bytes, into or onto `out`.

    Addresses: place, of blocks `apart` bytes from each other, of which `depth` lines are read; given, where the rows
    begin; units and steps; out, where rows `stride` bytes apart begin. There are no arrays, for to slice one counts who
    looks at it, and a head takes no longer than a few of that.
    """
    while block < last:
        left = last - block
        blocks = BLOCKS if left >= BLOCKS else min(2, left)
        offset = block * LANES * 4
        for row in range(0, rows, TOGETHER):
            multiply_blocks(
                blocks,
                min(TOGETHER, rows - row),
                place + block * apart,
                apart,
                depth,
                given + row * 2 * half,
                half,
                units + offset,
                steps + row * 4,
                out + row * stride + offset,
                stride,
                adding,
            )
        block += blocks


@intrinsic
def lay_quad(context: Any, source: Any, stride: Any, rates: Any, target: Any) -> Any:
    """Write the weights of four inputs and LANES outputs, times rates float32 [LANES], rounded, as a line at `target`.

    Addresses: source, float32 [INPUTS, LANES] whose rows are `stride` bytes apart; rates; target.
    """

    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        source, stride, rates, target = arguments
        factors, half = load(builder, FLOATS, rates), ir.Constant(FLOATS, [ZERO + 0.5] * LANES)
        fused = external(builder, f"llvm.fma.v{LANES}f32", FLOATS, *[FLOATS] * 3)
        line = ir.Constant(INTS, [0] * LANES)
        for place in range(INPUTS):
            numbers = load(builder, FLOATS, stepped(builder, source, place, stride))
            codes = builder.fptosi(builder.call(fused, [numbers, factors, half]), INTS)
            line = builder.or_(line, builder.shl(codes, ir.Constant(INTS, [8 * place] * LANES)))
        builder.store(line, builder.inttoptr(target, INTS.as_pointer()), align=4)

    return types.void(*[types.intp] * 4), generate
