"""What the processes of a distributed run tell each other; alone, a process hears only itself.

Every rank must call these in the same order, whatever its data: a collective that one rank leaves out hangs them all.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def leads() -> bool:
    """Whether this process speaks for all; known from the launcher, before and after they are connected."""
    return getattr(rank_zero_only, "rank", 0) == 0


def gather(values: Tensor) -> Tensor:
    """Stack equally shaped values [N, ...] of all ranks in their order, [ranks * N, ...]."""
    if world() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(world())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def total(values: Tensor) -> Tensor:
    """Sum over all ranks; without a gradient."""
    if world() == 1:
        return values
    summed = values.detach().clone()
    dist.all_reduce(summed)
    return summed


def mean(values: Tensor) -> Tensor:
    """Mean over all ranks; without a gradient."""
    return values if world() == 1 else total(values) / world()


def agree(values: Tensor) -> Tensor:
    """The values of rank 0, on every rank."""
    if world() > 1:
        dist.broadcast(values, 0)
    return values
