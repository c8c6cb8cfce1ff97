"""Products of many rows with six-bit weights, by a processor's tiles (AMX): sixteen rows at once.

The numbers are those of `sixes_numba`, to the bit: in a group sums are exact in either. A thread lays its tiles out,
uses them and lets them go, all in one function; `compiling_numba.tiles_granted` says whether it may.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import alloca_once
from numba.extending import intrinsic

from hemiola.kernels.memory import LINE
from hemiola.kernels.sixes_numba import BLOCKS, GROUP, LINES, OUTPUTS, QUADS, ZERO, unpacked
from hemiola.kernels.vectors_numba import (
    BYTE,
    FLOATS,
    INT64,
    INTS,
    LANES,
    NOTHING,
    external,
    fetch,
    load,
    store,
)

ROWS = 16  # of a tile
GROUPS = 4  # that are unpacked at once: they stay in the nearest cache
SPREAD = GROUPS * GROUP * OUTPUTS  # bytes that they take
_LEFT = 2 * ROWS * LINE  # bytes that tiles leave of a group: what upper and lower bytes make
SCRATCH = 2 * GROUPS * _LEFT
# Of the eight tiles: upper and lower bytes of what is given, weights, and what is made of either.
_GIVEN, _WEIGHTS, _MADE = (0, 1), (2,), (3, 4)
_STEP = 4  # there is a function for every so many rows
# Of the eight tiles: upper and lower bytes of what is given, weights, and what is made of either.
_GIVEN, _WEIGHTS, _MADE = (0, 1), (2,), (3, 4)
_STEP = 4  # there is a function for every so many rows


@intrinsic
def begin_tiles(context: Any, rows: Any) -> Any:
    """Lay the calling thread's tiles out for so many rows, ROWS at most; whoever does ends it too."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        start = builder.ptrtoint(alloca_once(builder, ir.ArrayType(BYTE, LINE)), INT64)
        store(builder, ir.Constant(INTS, [1] + [0] * (LANES - 1)), start)  # the palette
        count = builder.trunc(arguments[0], BYTE)
        for tiles, width, height in ((_GIVEN, GROUP, count), (_WEIGHTS, LINE, BYTE(QUADS)), (_MADE, LINE, count)):
            for number in tiles:
                store(builder, BYTE(width), builder.add(start, INT64(16 + 2 * number)))
                store(builder, height, builder.add(start, INT64(48 + number)))
        _told(builder, "ldtilecfg", builder.inttoptr(start, BYTE.as_pointer()))

    return types.void(types.intp), generate


@intrinsic
def end_tiles(context: Any) -> Any:
    """Let the calling thread's tiles go: kept, they would be saved whenever another thread takes its place."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        _told(builder, "tilerelease")

    return types.void(), generate


@intrinsic
def spread_groups(context: Any, packed: Any, groups: Any, spread: Any) -> Any:
    """Write so many groups to the address `spread`: bytes with a sign, [groups, BLOCKS, QUADS, LANES, INPUTS]."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        builder.call(_spreading(builder.module), arguments)

    return types.void(*[types.intp] * 3), generate


@intrinsic
def add_groups(
    context: Any,
    rows: Any,
    spread: Any,
    groups: Any,
    scales: Any,
    given: Any,
    lower: Any,
    following: Any,
    totals: Any,
    scratch: Any,
) -> Any:
    """Add what so many groups of inputs make of up to ROWS rows to totals float32 [ROWS, OUTPUTS].

    Addresses: spread, as `spread_groups` leaves them; scales int8 [OUTPUTS] of the first, of which the next are a
    packed group behind; given, the upper bytes of the first row's inputs, and the lower ones `lower` bytes on, the next
    row's `following`; scratch, SCRATCH bytes. Of rows that are not there, anything may be added.
    """

    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        done = builder.append_basic_block("done")
        shape = builder.udiv(builder.add(arguments[0], INT64(_STEP - 1)), INT64(_STEP))
        choice = builder.switch(shape, done)
        for size in range(_STEP, ROWS + 1, _STEP):
            case = builder.append_basic_block(f"rows_{size}")
            choice.add_case(INT64(size // _STEP), case)
            builder.position_at_end(case)
            for block in range(BLOCKS):
                builder.call(_adding(builder.module, size, block), arguments[1:])
            builder.branch(done)
        builder.position_at_end(done)

    return types.void(*[types.intp] * 9), generate


def _spreading(module: Any) -> Any:
    name = "hemiola_spread"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(NOTHING, [INT64] * 3), name)
    function.linkage = "internal"
    packed, groups, spread = function.args
    builder, group = _loop(function, groups)
    source = builder.add(packed, builder.mul(group, INT64(LINES * LINE)))
    target = builder.add(spread, builder.mul(group, INT64(GROUP * OUTPUTS)))
    kind = ir.VectorType(BYTE, LINE)
    zero = ir.Constant(kind, [ZERO] * LINE)
    for quad in range(QUADS):
        for block, weights in enumerate(unpacked(builder, [source] * BLOCKS, quad)):
            signed = builder.sub(builder.bitcast(weights, kind), zero)
            store(builder, signed, builder.add(target, INT64((block * QUADS + quad) * LINE)))
    return function


def _adding(module: Any, rows: int, block: int) -> Any:
    """A function that adds what groups make of `rows` rows and a block of outputs: its sums stay in registers."""
    name = f"hemiola_tiles_{rows}_{block}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(NOTHING, [INT64] * 8), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    spread, groups, scales, given, lower, following, totals, scratch = function.args
    entry, tiles, loop, done = (function.append_basic_block(each) for each in ("entry", "tiles", "loop", "done"))
    places = [INT64((row * OUTPUTS + block * LANES) * 4) for row in range(rows)]

    builder = ir.IRBuilder(entry)
    begun = [load(builder, FLOATS, builder.add(totals, place)) for place in places]
    builder.branch(tiles)

    # Tiles first, and what they leave long after: who reads it at once waits until it has reached the cache.
    builder.position_at_end(tiles)
    group = builder.phi(INT64)
    source = builder.add(given, builder.mul(group, INT64(GROUP)))
    weights = builder.add(spread, builder.mul(group, INT64(GROUP * OUTPUTS)))
    _fill(builder, _GIVEN[0], source, following)
    _fill(builder, _GIVEN[1], builder.add(source, lower), following)
    _fill(builder, _WEIGHTS[0], builder.add(weights, INT64(block * QUADS * LINE)), INT64(LINE))
    left = builder.add(scratch, builder.mul(builder.add(group, INT64(block % 2 * GROUPS)), INT64(_LEFT)))
    for made, numbers, half in zip(_MADE, _GIVEN, range(2)):
        _told(builder, "tilezero", BYTE(made))
        _told(builder, "tdpbssd", BYTE(made), BYTE(numbers), BYTE(_WEIGHTS[0]))
        place = builder.inttoptr(builder.add(left, INT64(half * ROWS * LINE)), BYTE.as_pointer())
        _told(builder, "tilestored64", BYTE(made), place, INT64(LINE))
    # Memory meanwhile: what is unpacked next, line after line.
    turn = builder.add(group, builder.mul(groups, INT64(block)))
    line = builder.add(builder.mul(groups, INT64(LINES)), builder.lshr(builder.mul(turn, INT64(LINES)), INT64(2)))
    ahead = builder.add(scales, builder.mul(builder.sub(line, INT64(LINES - 1)), INT64(LINE)))
    for number in range(-(-LINES // BLOCKS)):
        fetch(builder, builder.add(ahead, INT64(number * LINE)))
    after = builder.add(group, INT64(1))
    group.add_incoming(INT64(0), entry)
    group.add_incoming(after, tiles)
    builder.cbranch(builder.icmp_signed("<", after, groups), tiles, loop)

    builder.position_at_end(loop)
    group = builder.phi(INT64)
    sums = [builder.phi(FLOATS) for _ in places]
    fused = external(builder, f"llvm.fma.v{LANES}f32", FLOATS, *[FLOATS] * 3)
    place = builder.add(builder.mul(group, INT64(LINES * LINE)), INT64(block * LANES))
    narrow = builder.load(
        builder.inttoptr(builder.add(scales, place), ir.VectorType(BYTE, LANES).as_pointer()), align=1
    )
    scale = builder.sitofp(builder.sext(narrow, INTS), FLOATS)
    left = builder.add(scratch, builder.mul(builder.add(group, INT64(block % 2 * GROUPS)), INT64(_LEFT)))
    following_sums = []
    for row, total in enumerate(sums):
        high, low = (load(builder, INTS, builder.add(left, INT64((half * ROWS + row) * LINE))) for half in range(2))
        # As a sum of floats: the exact sum, rounded once.
        whole = builder.sitofp(builder.add(builder.shl(high, ir.Constant(INTS, [8] * LANES)), low), FLOATS)
        following_sums.append(builder.call(fused, [whole, scale, total]))
    after = builder.add(group, INT64(1))
    group.add_incoming(INT64(0), tiles)
    group.add_incoming(after, loop)
    for total, begin, later in zip(sums, begun, following_sums):
        total.add_incoming(begin, tiles)
        total.add_incoming(later, loop)
    builder.cbranch(builder.icmp_signed("<", after, groups), loop, done)

    builder.position_at_end(done)
    for place, later in zip(places, following_sums):
        store(builder, later, builder.add(totals, place))
    builder.ret_void()
    return function


def _loop(function: Any, count: Any) -> tuple[Any, Any]:
    """The body of a loop of at least one turn, and its number; the function ends behind it."""
    entry, loop, done = (function.append_basic_block(each) for each in ("entry", "loop", "done"))
    ir.IRBuilder(entry).branch(loop)
    ir.IRBuilder(done).ret_void()
    builder = ir.IRBuilder(loop)
    index = builder.phi(INT64)
    after = builder.add(index, INT64(1))
    index.add_incoming(INT64(0), entry)
    index.add_incoming(after, loop)
    end = builder.cbranch(builder.icmp_signed("<", after, count), loop, done)
    builder.position_before(end)
    return builder, index


def _fill(builder: Any, tile: int, address: Any, stride: Any) -> None:
    _told(builder, "tileloadd64", BYTE(tile), builder.inttoptr(address, BYTE.as_pointer()), stride)


def _told(builder: Any, name: str, *arguments: Any) -> None:
    """Carry out one of AMX's instructions."""
    function = external(builder, f"llvm.x86.{name}", NOTHING, *(each.type for each in arguments))
    builder.call(function, arguments)
