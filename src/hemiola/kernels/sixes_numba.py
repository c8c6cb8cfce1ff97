"""Products with matrices of six-bit weights, by instructions that multiply bytes.

A weight is a whole number from -32 to 31 times the scale of its group, `GROUP` inputs of one output; a scale is a byte
times what stands for the whole output. Rows that are multiplied are whole numbers of 16 bits, as two bytes, so that
hardly anything but the weights is rounded: a sum in a group is exact.

A bundle has `OUTPUTS` outputs. For each group of inputs it holds, for eight times four inputs, two lines with the lower
four bits of the weights of four blocks of outputs, and a line with their upper two; and at last a line of scales.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hemiola.kernels import compiling_numba as compiling
from hemiola.kernels.memory import LINE
from hemiola.kernels.vectors_numba import (
    BYTE,
    FLOAT,
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
    store,
)

GROUP = 32  # inputs with one scale
BLOCKS = 4
OUTPUTS = BLOCKS * LANES  # of a bundle
INPUTS = 4  # that one instruction multiplies and adds up, for each output
QUADS = GROUP // INPUTS
LINES = 3 * QUADS + 1  # of a group
ZERO = 32  # what is stored of a weight of 0
STREAMS, TOGETHER = 2, 2  # bundles and rows that are worked on side by side
_AHEAD = 28 * LINE  # memory is asked for that far before it is read; by trial


def supported() -> bool:
    """Whether this machine has what these products are made of."""
    return compiling.supported("avx512f", "avx512bw", "avx512vnni")


def size(outputs: int, inputs: int) -> int:
    """Bytes of a matrix."""
    return outputs // OUTPUTS * (inputs // GROUP) * LINES * LINE


@intrinsic
def unpack(context: Any, packed: Any, spread: Any) -> Any:
    """Write a group's weights to the address `spread` as bytes [QUADS, BLOCKS, LANES, INPUTS]."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        source, target = arguments
        for quad in range(QUADS):
            for block, weights in enumerate(unpacked(builder, [source] * BLOCKS, quad)):
                place = INT64((quad * BLOCKS + block) * LINE)
                store(builder, weights, builder.add(target, place))

    return types.void(*[types.intp] * 2), generate


@intrinsic(prefer_literal=True)
def add_group(
    context: Any,
    rows: Any,
    weights: Any,
    scales: Any,
    given: Any,
    sums: Any,
    lower: Any,
    following: Any,
    totals: Any,
) -> Any:
    """Add what a group of inputs makes of one row, two or three to totals float32 [rows, OUTPUTS].

    rows: a constant. Addresses: weights, a group as `unpack` leaves it; its scales int8 [OUTPUTS]; given, the upper
    bytes of the group's inputs in the first row; sums, int32, what their products are to be added to. Of both, the
    lower bytes' are `lower` bytes on, and the next row's `following`.
    """

    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        function = _group(builder.module, rows.literal_value, packed=False)
        builder.call(function, arguments[1:])

    return types.void(rows, *[types.intp] * 7), generate


@intrinsic
def multiply_bundles(
    context: Any,
    rows: Any,
    streams: Any,
    weights: Any,
    apart: Any,
    groups: Any,
    given: Any,
    sums: Any,
    lower: Any,
    following: Any,
    units: Any,
    steps: Any,
    out: Any,
    stride: Any,
    adding: Any,
) -> Any:
    """What up to STREAMS bundles make of up to TOGETHER rows, into or onto `out`.

    The bundles are read side by side, for memory then gives more. Addresses: weights, of the first group, with bundles
    `apart` bytes from each other; given and sums as for `add_group`; units float32 [streams * OUTPUTS] and steps
    [rows], what is to be multiplied with; out [rows, streams * OUTPUTS], its rows `stride` bytes apart.
    """

    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        sides = STREAMS + 1
        shape = builder.add(builder.mul(arguments[0], INT64(sides)), arguments[1])
        done = builder.append_basic_block("done")
        choice = builder.switch(shape, done)
        for count, size in itertools.product(range(1, TOGETHER + 1), range(1, sides)):
            case = builder.append_basic_block(f"bundles_{count}_{size}")
            choice.add_case(INT64(count * sides + size), case)
            builder.position_at_end(case)
            builder.call(_bundles(builder.module, count, size), arguments[2:])
            builder.branch(done)
        builder.position_at_end(done)

    return types.void(*[types.intp] * 13, types.boolean), generate


def _bundles(module: Any, rows: int, streams: int) -> Any:
    name = f"hemiola_bundles_{rows}_{streams}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(NOTHING, [INT64] * 11 + [ir.IntType(1)]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    weights, apart, groups, given, sums, lower, following, units, steps, out, stride, adding = function.args
    entry, loop, done = (function.append_basic_block(each) for each in ("entry", "loop", "done"))
    zeros = ir.Constant(FLOATS, [0] * LANES)
    builder = ir.IRBuilder(entry)
    room = builder.alloca(FLOATS, streams * rows * BLOCKS)
    room.align = LINE
    totals = builder.ptrtoint(room, INT64)
    for place in range(streams * rows * BLOCKS):
        store(builder, zeros, builder.add(totals, INT64(place * LINE)))
    builder.branch(loop)

    builder.position_at_end(loop)
    group = builder.phi(INT64)
    inputs = builder.add(given, builder.mul(group, INT64(GROUP))), builder.add(sums, builder.mul(group, INT64(4)))
    for stream in range(streams):
        start = builder.add(stepped(builder, weights, stream, apart), builder.mul(group, INT64(LINES * LINE)))
        scales, found = builder.add(start, INT64((LINES - 1) * LINE)), INT64(stream * rows * BLOCKS * LINE)
        arguments = start, scales, *inputs, lower, following, builder.add(totals, found)
        builder.call(_group(module, rows, packed=True), arguments)
    next_group = builder.add(group, INT64(1))
    group.add_incoming(INT64(0), entry)
    group.add_incoming(next_group, loop)
    builder.cbranch(builder.icmp_signed("<", next_group, groups), loop, done)

    builder.position_at_end(done)
    for row, stream in itertools.product(range(rows), range(streams)):
        there, place = INT64((stream * rows + row) * BLOCKS * LINE), INT64(stream * BLOCKS * LINE)
        target = builder.add(stepped(builder, out, row, stride), place)
        step = builder.add(steps, INT64(4 * row))
        _finished(builder, builder.add(totals, there), builder.add(units, place), step, target, adding)
    builder.ret_void()
    return function


@intrinsic
def finish(context: Any, totals: Any, units: Any, step: Any, out: Any, adding: Any) -> Any:
    """Totals float32 [OUTPUTS] times units [OUTPUTS] and a step, into or onto out [OUTPUTS]; all are addresses."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        _finished(builder, *arguments)

    return types.void(*[types.intp] * 4, types.boolean), generate


def _finished(builder: Any, totals: Any, units: Any, step: Any, out: Any, adding: Any) -> None:
    for block in range(BLOCKS):
        place = INT64(block * LINE)
        total = load(builder, FLOATS, builder.add(totals, place))
        finished(builder, total, builder.add(units, place), step, builder.add(out, place), adding)


def finished(builder: Any, total: Any, units: Any, step: Any, out: Any, adding: Any) -> None:
    """Write a vector of totals times units [LANES] and a step, which stand at addresses, into or onto out [LANES]."""
    # Fused, so that products are made in one order in whatever function this stands.
    fused = external(builder, f"llvm.fma.v{LANES}f32", FLOATS, *[FLOATS] * 3)
    rate = builder.fmul(everywhere(builder, load(builder, FLOAT, step)), load(builder, FLOATS, units))
    onto = builder.select(adding, load(builder, FLOATS, out), ir.Constant(FLOATS, [0] * LANES))
    store(builder, builder.call(fused, [total, rate, onto]), out)


def dot(builder: Any, total: Any, weights: Any, numbers: Any) -> Any:
    """Total plus the products of four bytes, weights without a sign and numbers with one, in every lane."""
    return builder.call(external(builder, "llvm.x86.avx512.vpdpbusd.512", INTS, *[INTS] * 3), [total, weights, numbers])


def _group(module: Any, rows: int, *, packed: bool) -> Any:
    name = f"hemiola_group_{rows}_{packed}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(NOTHING, [INT64] * 7), name)
    function.linkage = "internal"
    # Between the groups of a bundle a call would hold memory up.
    function.attributes.add("alwaysinline" if packed else "noinline")
    source, scales, given, sums, lower, following, totals = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    away = [
        builder.add(stepped(builder, INT64(0), row, following), half)
        for row in range(rows)
        for half in (INT64(0), lower)
    ]
    starts = [builder.add(given, each) for each in away]
    begins = [everywhere(builder, load(builder, INT32, builder.add(sums, each))) for each in away]
    found_sums = [[begin] * BLOCKS for begin in begins]
    sources = _apart(builder, source, BLOCKS) if packed else []
    for quad in range(QUADS):
        if packed:
            blocks = unpacked(builder, sources, quad)
        else:
            places = [builder.add(source, INT64((quad * BLOCKS + block) * LINE)) for block in range(BLOCKS)]
            blocks = [load(builder, INTS, place) for place in places]
        for number, start in enumerate(starts):
            numbers = everywhere(builder, load(builder, INT32, builder.add(start, INT64(quad * INPUTS))))
            found_sums[number] = [dot(builder, total, each, numbers) for total, each in zip(found_sums[number], blocks)]
        # Memory gives more when it is asked after these products than before them: by trial.
        for line in range(3) if packed else ():
            fetch(builder, builder.add(source, INT64((3 * quad + line) * LINE + _AHEAD)))
    if packed:
        fetch(builder, builder.add(scales, INT64(_AHEAD)))
    fused = external(builder, f"llvm.fma.v{LANES}f32", FLOATS, *[FLOATS] * 3)
    upper = ir.Constant(FLOATS, [256.0] * LANES)
    for block in range(BLOCKS):
        place = builder.add(scales, INT64(block * LANES))
        narrow = builder.load(builder.inttoptr(place, ir.VectorType(BYTE, LANES).as_pointer()), align=1)
        scale = builder.sitofp(builder.sext(narrow, INTS), FLOATS)
        for row in range(rows):
            high, low = (builder.sitofp(found_sums[2 * row + half][block], FLOATS) for half in range(2))
            whole = builder.call(fused, [high, upper, low])
            place = builder.add(totals, INT64((row * OUTPUTS + block * LANES) * 4))
            store(builder, builder.call(fused, [whole, scale, load(builder, FLOATS, place)]), place)
    builder.ret_void()
    return function


def _apart(builder: Any, address: Any, count: int) -> list[Any]:
    """The same address so many times, without LLVM knowing.

    It would load a line once, and use it four times. Loads that are each part of an instruction take less room where
    instructions wait for memory: so products are a twentieth quicker.
    """
    same = ir.InlineAsm(ir.FunctionType(INT64, [INT64]), "", "=r,0", side_effect=True)
    return [address] + [builder.call(same, [address]) for _ in range(1, count)]


def unpacked(builder: Any, sources: Sequence[Any], quad: int) -> list[Any]:
    """The weights of four inputs and four blocks of outputs, with nothing but zeros above their six bits.

    Sources are as many times the address of a group: each block's weights are read by its own.
    """
    lower, upper = (ir.Constant(INTS, [mask * 0x01010101] * LANES) for mask in (0x0F, 0x30))
    found = []
    for block, source in enumerate(sources):
        places = [builder.add(source, INT64((3 * quad + line) * LINE)) for line in (block // 2, 2)]
        nibble, pairs = (load(builder, INTS, place) for place in places)
        if block % 2:
            nibble = builder.lshr(nibble, ir.Constant(INTS, [4] * LANES))
        shift = 4 - 2 * block
        if shift > 0:
            pairs = builder.shl(pairs, ir.Constant(INTS, [shift] * LANES))
        elif shift < 0:
            pairs = builder.lshr(pairs, ir.Constant(INTS, [-shift] * LANES))
        found.append(builder.or_(builder.and_(nibble, lower), builder.and_(pairs, upper)))
    return found
