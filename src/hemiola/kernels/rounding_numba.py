"""Numbers as whole ones: weights times scales, group by group, laid out as `sixes_numba` reads them, and inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hemiola.kernels.compiling_numba import compiled
from hemiola.kernels.functions_numba import largest_bits
from hemiola.kernels.memory import LINE
from hemiola.kernels.sixes_numba import BLOCKS, BYTE_LINES, BYTE_ZERO, GROUP, LINES, OUTPUTS, QUADS, ZERO
from hemiola.kernels.vectors_numba import BYTE, FLOATS, INT32, INT64, INTS, LANES, everywhere, external, load

_F32 = np.float32
_TRIALS = 6  # scales that are tried for a group
_LONGEST = _F32(1.03)  # of them, as a share of what just reaches the largest weight
_FINER = _F32(0.03)  # by what share they differ
_BYTE = 127
_LARGE = 2**23
LARGEST = 127 * 256 + 127  # of what weights are multiplied with
_SMALLEST = np.finfo(np.float32).tiny


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
        unit = max(_reach(row) / _F32(ZERO * _BYTE), _SMALLEST)
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
    """Weight float32 [outputs, inputs] in bytes -> out uint8 [bytes], as they are read, and units float32 [outputs].

    A group takes the scale that just reaches. It is done in vectors, for it is done while somebody waits.
    """
    outputs, groups = len(weight), weight.shape[1] // GROUP
    rates, half, codes = np.empty(groups, np.float32), np.empty(16, np.float32), np.empty(GROUP, np.uint8)
    words, quads = out.view(np.uint32), codes.view(np.uint32)
    for output in range(outputs):
        row, block, lane = weight[output], output % OUTPUTS // LANES, output % LANES
        for group in range(groups):
            some = row[group * GROUP : (group + 1) * GROUP]
            for place in range(16):
                half[place] = max(abs(some[place]), abs(some[place + 16]))
            for place in range(8):
                half[place] = max(half[place], half[place + 8])
            for place in range(4):
                half[place] = max(half[place], half[place + 4])
            rates[group] = max(max(half[0], half[1]), max(half[2], half[3]))
        unit = max(_reach(rates) / _F32(_BYTE * _BYTE), _SMALLEST)
        units[output] = unit
        for group in range(groups):
            scale = min(int(rates[group] / (_F32(_BYTE) * unit)) + 1, _BYTE)
            rate = _F32(1) / (_F32(scale) * unit)
            some = row[group * GROUP : (group + 1) * GROUP]
            for place in range(GROUP):
                # Behind so large a number a float32 has room for nothing but whole ones, in its last bits.
                codes[place] = np.uint8(_F32(some[place] * rate + _F32(_LARGE + BYTE_ZERO)).view(np.uint32))
            start = (output // OUTPUTS * groups + group) * BYTE_LINES * LINE
            out[start + (BYTE_LINES - 1) * LINE + output % OUTPUTS] = np.uint8(scale)
            for quad in range(QUADS):
                words[start // 4 + (quad * BLOCKS + block) * LANES + lane] = quads[quad]


@compiled
def _reach(some: np.ndarray) -> np.float32:
    """The largest of all sizes."""
    return np.int32(largest_bits(some)).view(np.float32)


@intrinsic
def halve(context: Any, source: Any, rate: Any, upper: Any, lower: Any) -> Any:
    """Write GROUP numbers float32, times a rate, rounded and of at most LARGEST, as upper and lower bytes.

    Addresses: source, upper and lower. Returns the sums of the upper and of the lower bytes.
    """

    def generate(builder_context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        source, rate, upper, lower = arguments
        nearest = external(builder, f"llvm.rint.v{LANES}f32", FLOATS, FLOATS)
        added = external(builder, f"llvm.vector.reduce.add.v{LANES}i32", INT32, INTS)
        eight, half = (ir.Constant(INTS, [each] * LANES) for each in (8, 128))
        factor = everywhere(builder, rate)
        sums = [ir.Constant(INTS, [0] * LANES)] * 2
        for part in range(GROUP // LANES):
            numbers = load(builder, FLOATS, builder.add(source, INT64(part * LANES * 4)))
            whole = builder.fptosi(builder.call(nearest, [builder.fmul(numbers, factor)]), INTS)
            high = builder.ashr(builder.add(whole, half), eight)
            low = builder.sub(whole, builder.shl(high, eight))
            sums = [builder.add(total, each) for total, each in zip(sums, (high, low))]
            for each, target in ((high, upper), (low, lower)):
                place = builder.add(target, INT64(part * LANES))
                narrow = builder.trunc(each, ir.VectorType(BYTE, LANES))
                builder.store(narrow, builder.inttoptr(place, narrow.type.as_pointer()), align=1)
        return builder_context.make_tuple(
            builder, signature.return_type, [builder.call(added, [each]) for each in sums]
        )

    return types.UniTuple(types.int32, 2)(types.intp, types.float32, types.intp, types.intp), generate


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
