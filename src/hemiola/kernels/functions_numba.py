"""Functions of numbers, from which numba makes such of whole vectors."""

from __future__ import annotations

import math

import numpy as np

from hemiola.kernels.compiling_numba import compiled

_F32 = np.float32
_LIMIT = _F32(60)


@compiled
def exp(x: np.float32) -> np.float32:
    """Within two units in the last place: a power of two, and a series on half an octave to either side.

    Below -60 it stays at 1e-26: beside 1 that is nothing, and products with it are not so small that they take long.
    Above 60 it stays there as well.
    """
    x = min(max(x, -_LIMIT), _LIMIT)
    octaves = np.floor(x * _F32(math.log2(math.e)) + _F32(0.5))
    rest = x - octaves * _F32(0.693145751953125) - octaves * _F32(math.log(2) - 0.693145751953125)
    power = _F32(1 / 5040)
    power = power * rest + _F32(1 / 720)
    power = power * rest + _F32(1 / 120)
    power = power * rest + _F32(1 / 24)
    power = power * rest + _F32(1 / 6)
    power = power * rest + _F32(1 / 2)
    power = power * rest * rest + rest + _F32(1)
    return power * np.int32((np.int32(octaves) + 127) << 23).view(np.float32)


@compiled
def sigmoid(x: np.float32) -> np.float32:
    """Between 0 and 1; within 2e-7."""
    return _F32(1) / (_F32(1) + exp(-x))


@compiled
def tanh(x: np.float32) -> np.float32:
    """Between -1 and 1; within 2e-7."""
    return _F32(1) - _F32(2) / (_F32(1) + exp(_F32(2) * x))


@compiled
def gelu(x: np.float32) -> np.float32:
    """With the error function of Abramowitz and Stegun 7.1.26: within 1.5e-7 of it."""
    size = abs(x)
    z = size * _F32(math.sqrt(0.5))
    t = _F32(1) / (_F32(1) + _F32(0.3275911) * z)
    tail = _F32(1.061405429)
    tail = tail * t - _F32(1.453152027)
    tail = tail * t + _F32(1.421413741)
    tail = tail * t - _F32(0.284496736)
    tail = (tail * t + _F32(0.254829592)) * t * exp(-z * z)
    return _F32(0.5) * (x + size * (_F32(1) - tail))


@compiled
def largest_bits(some: np.ndarray) -> np.int32:
    """The bits, without the sign, of the largest size among numbers float32.

    As integers they have the same order, are compared more quickly, and those of what is no number are larger still.
    """
    bits, largest = some.view(np.int32), np.int32(0)
    for k in range(len(bits)):
        largest = max(largest, np.int32(bits[k] & np.int32(0x7FFFFFFF)))
    return largest


@compiled
def ordered(x: np.float32) -> np.int32:
    """Whole numbers that stand in the order of such numbers: of those many are compared at once, of numbers one by one.

    What is no number comes last, or first.
    """
    bits = np.float32(x).view(np.int32)
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@compiled
def disordered(whole: np.int32) -> np.float32:
    """The number in whose place it stands."""
    return np.int32(whole ^ ((whole >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)
