"""An LSTM in compiled steps, for PyTorch on a CPU: its recurrent weights packed, and a team of threads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hemiola.codec.lstm_numba import GATES, layer
from hemiola.codec.lstm_torch import State
from hemiola.kernels.memory import lined
from hemiola.kernels.team_torch import counts, team
from hemiola.kernels.tile_numba import GROUP_BYTES, THREES, supported
from hemiola.kernels.vectors_numba import LANES


def fits(lstm: nn.LSTM) -> bool:
    """Whether there is a kernel for these sizes that runs on this machine, and the weights are numbers.

    Kernels take every number for one: what is none is left to torch, which passes it on for all to see.
    """
    if not supported(THREES) or lstm.hidden_size % LANES:
        return False
    return all(bool(each.detach().sum().isfinite()) for each in lstm.parameters())


class CompiledLstm:
    """A stack of LSTM layers that `fits`; weights are as they are when it is made.

    Every step reads all recurrent weights, and does little else. They are kept in three of their four bytes, rounded:
    16 significant bits, an error of 2^-17 at most, whose share in a sum over hundreds of units is lost among what
    float32 rounds.
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        width, blocks = lstm.hidden_size, lstm.hidden_size // LANES
        # In the order in which products with a packed matrix come out: gates of a block of units stand together.
        order = torch.arange(GATES * width).reshape(GATES, blocks, LANES).swapaxes(0, 1).flatten()
        weights = [[each.detach()[order] for each in parts] for parts in lstm.all_weights]
        self.inward = [(inward, first + second) for inward, _, first, second in weights]
        self.packed = lined((len(weights), blocks, width * GATES * LANES * GROUP_BYTES[THREES]), np.uint8)
        for target, (_, around, *_) in zip(self.packed, weights):
            # [blocks, GATES, LANES, width] -> [blocks, width, GATES, LANES]
            threes(around.reshape(blocks, GATES * LANES, width).swapaxes(1, 2).contiguous().numpy(), target)

    def __call__(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """x [n, B, width], and the state h and c [layers, B, width], None at the start -> y, the state after."""
        steps, rows, width = x.shape
        hidden, cell = torch.zeros(2, len(self.inward), rows, width) if state is None else map(torch.clone, state)
        for index, (inward, bias) in enumerate(self.inward):
            driven = functional.linear(x, inward, bias).reshape(steps, rows, -1, GATES, LANES)
            x, met = torch.empty(steps, rows, width), counts()
            arrays = (each.numpy() for each in (driven, hidden[index], cell[index], x))
            team().run(layer, self.packed[index], *arrays, met, counts=met)
            hidden[index] = x[-1]
        return x, (hidden, cell)


def threes(numbers: np.ndarray, out: np.ndarray) -> None:
    """Round every float32 to its three upper bytes, and write these to `out` [blocks, bytes], block by block."""
    for source, target in zip(numbers, out):
        bits = np.ascontiguousarray(source).view(np.uint32)
        bits = bits + np.uint32(0x7F) + ((bits >> np.uint32(8)) & np.uint32(1))
        target[:] = bits.astype("<u4", copy=False).view(np.uint8).reshape(-1, 4)[:, 1:].reshape(-1)
