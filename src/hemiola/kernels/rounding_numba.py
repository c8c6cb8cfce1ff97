"""Numbers as whole ones: weights times scales, group by group, laid out as `sixes_numba` reads them, and inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hemiola.kernels.bytes_numba import lay_quad
from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.functions_numba import largest_bits
from hemiola.kernels.memory import LINE
from hemiola.kernels.sixes_numba import GROUP, INPUTS, LINES, OUTPUTS, QUADS, ZERO
from hemiola.kernels.vectors_numba import (
    BYTE,
    FLOAT,
    FLOATS,
    INT32,
    INT64,
    INTS,
    LANES,
    everywhere,
    external,
    load,
    store,
)

_F32 = np.float32
_TRIALS = 6  # scales that are tried for a group
_LONGEST = _F32(1.03)  # of them, as a share of what just reaches the largest weight
_FINER = _F32(0.03)  # by what share they differ
_BYTE = 127
LARGEST = 127 * 256 + 127  # of what weights are multiplied with
SMALLEST = _F32(1e-30)  # what nowhere reaches it is nothing: its inverse is still a number
_TINY = np.finfo(np.float32).tiny


@compiled
def rounded(
    part: int, parts: int, weight: np.ndarray, codes: np.ndarray, scales: np.ndarray, units: np.ndarray
) -> None:
    """Round the rows of weight float32 [outputs, inputs] that are thread `part`'s share.

    A weight becomes (code - ZERO) * scale * unit, with codes uint8 [outputs, inputs], scales int8 [outputs, groups],
    units float32 [outputs]. Of a few scales a group takes that which leaves the least error, of squares; its largest
    weight lies on the side that reaches further.
    """
    outputs = len(weight)
    for output in range(outputs * part // parts, outputs * (part + 1) // parts):
        row = weight[output]
        unit = max(_reach(row) / _F32(ZERO * _BYTE), _TINY)
        units[output] = unit
        for group in range(len(row) // GROUP):
            some = row[group * GROUP : (group + 1) * GROUP]
            scale = _scale(some, unit)
            scales[output, group] = scale
            step = _F32(1) / (_F32(scale) * unit)
            for place in range(GROUP):
                codes[output, group * GROUP + place] = np.uint8(_whole(some[place] * step) + _F32(ZERO))


@compiled
def laid_out(part: int, parts: int, codes: np.ndarray, scales: np.ndarray, out: np.ndarray) -> None:
    """Codes uint8 [outputs, inputs] below 64 and scales int8 [outputs, groups] -> out uint8 [bytes], as they are read.

    Of whole bundles of outputs those that are thread `part`'s share.
    """
    outputs, groups = scales.shape
    quads, words = codes.view(np.uint32), out.view(np.uint32)
    lower, upper, line = np.uint32(0x0F0F0F0F), np.uint32(0x30303030), LINE // 4
    for bundle in range(outputs // OUTPUTS * part // parts, outputs // OUTPUTS * (part + 1) // parts):
        for group in range(groups):
            start = (bundle * groups + group) * LINES
            for quad in range(QUADS):
                place, column = (start + 3 * quad) * line, group * QUADS + quad
                for lane in range(LANES):
                    first = bundle * OUTPUTS + lane
                    one, two = quads[first, column], quads[first + LANES, column]
                    three, four = quads[first + 2 * LANES, column], quads[first + 3 * LANES, column]
                    words[place + lane] = (one & lower) | ((two & lower) << np.uint32(4))
                    words[place + line + lane] = (three & lower) | ((four & lower) << np.uint32(4))
                    pairs = ((one & upper) >> np.uint32(4)) | ((two & upper) >> np.uint32(2))
                    words[place + 2 * line + lane] = pairs | (three & upper) | ((four & upper) << np.uint32(2))
            for output in range(OUTPUTS):
                out[(start + LINES - 1) * LINE + output] = np.uint8(scales[bundle * OUTPUTS + output, group])


@compiled
def bytes_laid_out(weight: np.ndarray, out: np.ndarray, units: np.ndarray) -> None:
    """Weight float32 [inputs, outputs] in bytes -> out uint8 [bytes], as `bytes_numba` reads them, and units [outputs].

    It is done in vectors, for it is done while somebody waits.
    """
    inputs, outputs = weight.shape
    bits, largest, rates = weight.view(np.int32), np.zeros(outputs, np.int32), np.empty(outputs, np.float32)
    for place in range(inputs):
        row = bits[place]
        for output in range(outputs):
            largest[output] = max(largest[output], np.int32(row[output] & np.int32(0x7FFFFFFF)))
    sizes = largest.view(np.float32)
    for output in range(outputs):
        # Of what is no number the unit says so.
        size = max(sizes[output], SMALLEST)
        units[output], rates[output] = size / _F32(_BYTE), _F32(_BYTE) / size
    target = out.ctypes.data
    for output in range(0, outputs, LANES):
        rate = rates.ctypes.data + output * 4
        for place in range(0, inputs, INPUTS):
            lay_quad(weight.ctypes.data + place * weight.strides[0] + output * 4, weight.strides[0], rate, target)
            target += LINE


@compiled
def _reach(some: np.ndarray) -> np.float32:
    """The largest of all sizes."""
    return np.int32(largest_bits(some)).view(np.float32)


@intrinsic
def halve(context: Any, source: Any, width: Any, out: Any, half: Any) -> Any:
    """A row of `width` numbers float32, whole groups, as whole ones of at most LARGEST times a step, which is returned.

    Addresses: source; out, where the upper bytes and for each group -ZERO times their sum are written, and `half` bytes
    on the same of the lower ones. A row that nowhere reaches SMALLEST is nothing.
    """

    def generate(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.call(_halved(builder.module), arguments)

    return types.float32(*[types.intp] * 4), generate


def _halved(module: Any) -> Any:
    name = "hemiola_halved"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(FLOAT, [INT64] * 4), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    source, width, out, half = function.args
    entry, looks, found, loop, done = (
        function.append_basic_block(each) for each in ("entry", "looks", "found", "loop", "done")
    )
    vectors = range(GROUP // LANES)
    nothing = ir.Constant(INTS, [0] * LANES)

    # As integers sizes have the same order, and those of what is no number are larger still.
    builder = ir.IRBuilder(entry)
    builder.branch(looks)
    builder.position_at_end(looks)
    look = builder.phi(INT64)
    before = [builder.phi(INTS) for _ in vectors]
    after = []
    for part, most in zip(vectors, before):
        place = builder.add(source, builder.mul(builder.add(look, INT64(part * LANES)), INT64(4)))
        size = builder.and_(load(builder, INTS, place), ir.Constant(INTS, [0x7FFFFFFF] * LANES))
        after.append(builder.select(builder.icmp_signed(">", size, most), size, most))
    next_look = builder.add(look, INT64(GROUP))
    for phi, first, following in [(look, INT64(0), next_look), *zip(before, [nothing] * len(after), after)]:
        phi.add_incoming(first, entry)
        phi.add_incoming(following, looks)
    builder.cbranch(builder.icmp_signed("<", next_look, width), looks, found)

    builder.position_at_end(found)
    one, two = after
    most = builder.select(builder.icmp_signed(">", one, two), one, two)
    reach = builder.bitcast(
        builder.call(external(builder, f"llvm.vector.reduce.smax.v{LANES}i32", INT32, INTS), [most]), FLOAT
    )
    is_nothing = builder.fcmp_ordered("<", reach, FLOAT(SMALLEST))
    reach = builder.select(is_nothing, FLOAT(SMALLEST), reach)
    factor = everywhere(builder, builder.fdiv(FLOAT(LARGEST), reach))
    builder.branch(loop)

    builder.position_at_end(loop)
    start = builder.phi(INT64)
    nearest = external(builder, f"llvm.rint.v{LANES}f32", FLOATS, FLOATS)
    summed = external(builder, f"llvm.vector.reduce.add.v{LANES}i32", INT32, INTS)
    totals = [nothing] * 2
    for part in vectors:
        place = builder.add(start, INT64(part * LANES))
        numbers = load(builder, FLOATS, builder.add(source, builder.mul(place, INT64(4))))
        whole = builder.fptosi(builder.call(nearest, [builder.fmul(numbers, factor)]), INTS)
        high = builder.ashr(builder.add(whole, ir.Constant(INTS, [128] * LANES)), ir.Constant(INTS, [8] * LANES))
        low = builder.sub(whole, builder.shl(high, ir.Constant(INTS, [8] * LANES)))
        totals = [builder.add(total, each) for total, each in zip(totals, (high, low))]
        for each, target in ((high, out), (low, builder.add(out, half))):
            narrow = builder.trunc(each, ir.VectorType(BYTE, LANES))
            builder.store(narrow, builder.inttoptr(builder.add(target, place), narrow.type.as_pointer()), align=1)
    sums = builder.add(builder.add(out, width), builder.udiv(start, INT64(GROUP // 4)))
    for total, target in zip(totals, (sums, builder.add(sums, half))):
        store(builder, builder.mul(builder.call(summed, [total]), INT32(-ZERO)), target)
    next_start = builder.add(start, INT64(GROUP))
    start.add_incoming(INT64(0), found)
    start.add_incoming(next_start, loop)
    builder.cbranch(builder.icmp_signed("<", next_start, width), loop, done)

    builder.position_at_end(done)
    builder.ret(builder.fdiv(reach, FLOAT(LARGEST)))
    return function


@compiled
def _scale(some: np.ndarray, unit: np.float32) -> int:
    high, low = _F32(0), _F32(0)
    for place in range(GROUP):
        high, low = max(high, some[place]), min(low, some[place])
    reach, side = (high, -1) if high > -low else (-low, 1)
    least, best = _F32(np.inf), 1
    for trial in range(_TRIALS):
        wanted = reach / (_F32(ZERO) * unit) * (_LONGEST - _FINER * _F32(trial))
        scale = side * min(max(int(wanted + _F32(0.5)), 1), _BYTE)
        error = _error(some, _F32(scale) * unit)
        if error < least:
            least, best = error, scale
    return best


@compiled
def _error(some: np.ndarray, step: np.float32) -> np.float32:
    rate, total = _F32(1) / step, _F32(0)
    for place in range(GROUP):
        away = _whole(some[place] * rate) * step - some[place]
        total += away * away
    return total


@compiled
def _whole(number: np.float32) -> np.float32:
    return min(max(np.floor(number + _F32(0.5)), _F32(-ZERO)), _F32(ZERO - 1))
