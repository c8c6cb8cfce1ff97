"""Windows of a clip's latents, cut at any place and read at any tempo; differentiable in both."""

from __future__ import annotations

import torch
from torch import Tensor


def cut_and_stretch(latents: Tensor, starts: Tensor, ratios: Tensor, frames: int) -> Tensor:
    """Read windows of `frames` frames: frame j of a window is the clip at start + j x ratio, linear between neighbours.

    latents [B, D, T] of two frames at least, starts [B, N] in frames, ratios [B, N] in source frames per frame ->
    windows [B, N, D, frames]. A ratio of 2 plays twice as fast. A window that would leave the clip reads its first or
    last frame there; `room` says what fits. The gradient reaches latents, starts and ratios.
    """
    batch, width, total = latents.shape
    steps = torch.arange(frames, device=latents.device, dtype=starts.dtype)
    positions = (starts[..., None] + ratios[..., None] * steps).clamp(0, total - 1)
    # A place that is no number reads numbers that are none: `between` sees to that, an index could not.
    before = positions.detach().nan_to_num().floor().clamp(max=total - 2).long()
    between = (positions - before).to(latents.dtype)[..., None]
    # Rows of one long table, so that a frame's values lie side by side when they are read.
    rows = latents.mT.reshape(batch * total, width)
    index = before + total * torch.arange(batch, device=latents.device)[:, None, None]
    earlier, later = (rows[places] for places in (index, index + 1))
    return torch.lerp(earlier, later, between).mT


def room(total: int, ratios: Tensor, frames: int) -> Tensor:
    """The latest start, in frames, of a window of `frames` frames that is read at `ratios` and ends inside the clip."""
    return total - 1 - (frames - 1) * ratios


def placed(fractions: Tensor, ratios: Tensor, total: int, frames: int) -> Tensor:
    """Starts in frames, of fractions [0, 1] of the room that each ratio leaves: no choice lies outside the clip."""
    return fractions * room(total, ratios, frames)
