"""A stack of LSTM layers over a block of steps, for inference: what is quickest for the machine and the shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hemiola.codec.packing_torch import made_of
from hemiola.kernels.presence import needing_numba

State = tuple[Tensor, Tensor]  # h and c [layers, B, width]
Steps = Callable[[Tensor, State | None], tuple[Tensor, State]]  # x [n, B, width] -> y, and the state after

# From this many rows on, torch's own LSTM is quicker; it lays its weights out anew for every block.
MANY_ROWS = 3
# A smaller one has its weights in the processor's own cache: loading kernels would take longer than they save.
COMPILED_FROM = 512


def steps_of(lstm: nn.LSTM) -> Steps:
    """What carries `lstm` out, with its weights as they are now."""
    weight = lstm.weight_hh_l0
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and lstm.hidden_size >= COMPILED_FROM:
        compiled = needing_numba("hemiola.codec.lstm_compiled_torch", "torch carries out a codec's LSTM")
        if compiled is not None and made_of(lstm, compiled.fits):
            steps: Steps = made_of(lstm, compiled.CompiledLstm)
            return steps
    return TorchLstm(lstm)


class TorchLstm:
    """A stack of LSTM layers, carried out by torch."""

    def __init__(self, lstm: nn.LSTM) -> None:
        self.lstm = lstm

    def __call__(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """x [n, B, width], and the state h and c [layers, B, width], None at the start -> y, the state after."""
        if x.device.type != "cpu" or x.shape[1] >= MANY_ROWS:
            y, state = self.lstm(x, state)
            return y, state
        zeros = x.new_zeros(self.lstm.num_layers, *x.shape[1:])
        h, c = (zeros, zeros.clone()) if state is None else map(torch.clone, state)
        for hidden, cell, weights in zip(h, c, self.lstm.all_weights):
            x = lstm_steps(x, hidden, cell, weights)
            hidden.copy_(x[-1])
        return x, (h, c)


def lstm_steps(x: Tensor, h: Tensor, c: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """One LSTM layer over x [n, B, width], from the state h and c [B, width]; c is written over."""
    inward, around, *biases = weights
    driven, y = functional.linear(x, inward, biases[0] + biases[1]), torch.empty_like(x)
    for gates, out in zip(driven, y):
        for row, before in zip(gates, h):
            row.addmv_(around, before)
        admit, keep, new, show = gates.chunk(4, dim=-1)
        c.mul_(keep.sigmoid_()).addcmul_(admit.sigmoid_(), new.tanh_())
        h = torch.mul(show.sigmoid_(), c.tanh(), out=out)
    return y
