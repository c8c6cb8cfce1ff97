"""Matrices in 8 bits for PyTorch on a CPU: a quarter of the bytes of float32 to read at every step."""

from __future__ import annotations

import warnings
from typing import Protocol

import torch
from torch import Tensor

from hemiola.errors import BackendError

LARGEST = 127
BELOW = 8  # what GELU gives has so large a share of the steps below zero


def input_range() -> tuple[int, int]:
    """(steps to either side, the byte that means 0) for what is multiplied: bytes from 0 to 255.

    A processor without VNNI adds two products in 16 bits: half the range, or the sum would not fit.
    """
    return (127, 128) if torch.cpu._is_vnni_supported() else (63, 64)


def output_scales(weight: Tensor) -> Tensor:
    """What one step of each output's weights [out, in] stands for, [out]."""
    return weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST


class Packed(Protocol):
    """A matrix [in, out] in a form of its own, which multiplies itself."""

    def times(self, hidden: Tensor) -> Tensor:
        """Hidden [rows, in] -> [rows, out]."""
        ...

    def plus_times(self, total: Tensor, hidden: Tensor) -> Tensor:
        """Total [rows, out] + hidden [rows, in] times the matrix."""
        ...


class Int8Matrix:
    """A matrix [in, out] of signed bytes with a scale for each output, multiplied by torch's integer kernel.

    The rows that it is given are brought to one range and cut into 255 steps, each row by itself: what else is in the
    batch changes nothing. The sums are exact integers.
    """

    def __init__(self, weight: Tensor, activated: bool = False) -> None:
        """`weight` [out, in] float32; raises BackendError where torch has no such kernel.

        What is `activated` by GELU hardly goes below zero: then most of the steps are above it.
        """
        scales = output_scales(weight)
        side, zero_point = input_range()
        self.reach = 1.0  # of the steps below zero, as a share of those above
        if activated:
            total = side + zero_point
            zero_point = total // BELOW
            side = total - zero_point
            self.reach = zero_point / side
        self.steps = 1 / side, zero_point
        with warnings.catch_warnings():
            # Torch means to replace how such tensors are made; the kernel that reads them has no successor yet.
            warnings.simplefilter("ignore", UserWarning)
            try:
                zeros = torch.zeros(len(scales), dtype=torch.long)
                whole = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
                self.packed = torch.ops.quantized.linear_prepack(whole, None)
            except (AttributeError, RuntimeError) as error:
                raise BackendError("this torch has no 8-bit kernels: use --dtype float32 or bfloat16") from error

    def times(self, hidden: Tensor) -> Tensor:
        """Hidden [rows, in] float32 -> [rows, out]."""
        product, largest = self._product(hidden)
        return product.mul_(largest)

    def plus_times(self, total: Tensor, hidden: Tensor) -> Tensor:
        """Total [rows, out] + hidden [rows, in] times the matrix."""
        product, largest = self._product(hidden)
        return torch.addcmul(total, product, largest)

    def _product(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        if self.reach == 1:
            largest = hidden.abs().amax(1, keepdim=True)  # a third of the time that a norm takes
        else:
            # Torch's aminmax takes four times as long as both.
            lowest, highest = hidden.amin(1, keepdim=True), hidden.amax(1, keepdim=True)
            largest = torch.maximum(highest, lowest / -self.reach)
        # A row of zeros stays one: 0 / tiny is 0.
        even = hidden / largest.clamp(min=torch.finfo(torch.float32).tiny)
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(even, *self.steps, self.packed)
        return product, largest
