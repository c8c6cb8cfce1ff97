"""Codebooks that learn: k-means start, moving averages, and dead codes brought back to life.

A residual vector quantiser is not trained by gradients: each entry follows the mean of the vectors it stands for.
Every rank of a distributed run issues the same collectives in the same order, whatever its data, so no branch can hang.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hemiola.codec.encodec_torch import Codebook
from hemiola.train import ranks


class CodebookTrainer(nn.Module):
    """Trains the codebooks of a residual quantiser by exponential moving averages.

    `codebooks` are the quantiser's own, updated in place. For the first `warmup_steps` the latents pass unquantised and
    fill a reservoir, from which k-means then starts the codebooks one residual after another.
    """

    step: Tensor
    used: Tensor
    sums: Tensor
    reservoir: Tensor

    def __init__(
        self,
        codebooks: Sequence[Codebook],
        *,
        decay: float = 0.99,
        warmup_steps: int = 100,
        reservoir_frames: int = 16384,
        dead_share: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        # In a tuple they are no submodules: their tables are saved with the codec, and once.
        self.codebooks = tuple(codebooks)
        self.decay, self.warmup_steps, self.dead_share, self.seed = decay, warmup_steps, dead_share, seed
        size, width = codebooks[0].embed.shape
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("used", torch.ones(len(codebooks), size))
        self.register_buffer("sums", torch.zeros(len(codebooks), size, width))
        self.register_buffer("reservoir", torch.zeros(reservoir_frames, width))

    @property
    def embeds(self) -> list[Tensor]:
        """The tables, [codes, D] each; looked up anew, for moving a module to a device gives it other buffers."""
        return [codebook.embed for codebook in self.codebooks]

    @property
    def warming_up(self) -> bool:
        """Whether latents still pass through unquantised."""
        return int(self.step) < self.warmup_steps

    def forward(self, latents: Tensor, codebooks: int) -> tuple[Tensor, Tensor]:
        """latents [B, D, F] -> (quantised [B, D, F] with straight-through gradient, commitment loss).

        In training mode the codebooks move; in eval mode they only quantise.
        """
        vectors = latents.float().transpose(1, 2).reshape(-1, latents.shape[1])
        if self.training:
            self._advance(vectors.detach())
        if self.warming_up:
            return latents, latents.new_zeros(())
        residual, commitment = vectors, vectors.new_zeros(())
        for index in range(codebooks):
            chosen = self._pick(residual.detach(), index)
            commitment = commitment + F.mse_loss(residual, chosen)
            residual = residual - chosen
        quantised = (vectors - residual).reshape(latents.shape[0], latents.shape[2], -1).transpose(1, 2)
        return latents + (quantised - latents).detach(), commitment / codebooks

    def usage(self) -> Tensor:
        """Perplexity of each codebook as a share of its size, [codebooks]."""
        share = self.used / self.used.sum(1, keepdim=True)
        entropy = -(share * (share + 1e-12).log()).sum(1)
        return entropy.exp() / self.used.shape[1]

    def _advance(self, vectors: Tensor) -> None:
        step = int(self.step)
        self.step += 1
        if step < self.warmup_steps:
            self._remember(ranks.gather(vectors), step)
            if step == self.warmup_steps - 1:
                self._start()

    def _remember(self, vectors: Tensor, step: int) -> None:
        """Fill the reservoir round-robin, so it ends with the newest vectors; it is the same on every rank."""
        size = len(self.reservoir)
        count = min(len(vectors), size)
        places = (torch.arange(count, device=vectors.device) + step * count) % size
        self.reservoir[places] = vectors[:count]

    def _start(self) -> None:
        filled = self.reservoir[self.reservoir.abs().sum(1) > 0]
        # An encoder that gives nothing but zeros still gets a codebook: of zeros.
        residual = filled if len(filled) else self.reservoir
        for index, embed in enumerate(self.embeds):
            table = ranks.agree(k_means(residual, len(embed), seed=self.seed + index))
            embed.copy_(table)
            nearest = torch.cdist(residual, table).argmin(1)
            self.used[index] = torch.bincount(nearest, minlength=len(table)).float() / self.warmup_steps + 1e-3
            self.sums[index] = table * self.used[index][:, None]
            residual = residual - table[nearest]

    @torch.no_grad()
    def _pick(self, residual: Tensor, index: int) -> Tensor:
        embed = self.codebooks[index].embed
        # Half precision would pick another entry than the codec itself does.
        with torch.autocast(residual.device.type, enabled=False):
            nearest = (embed.square().sum(1) - 2 * residual @ embed.t()).argmin(1)
        chosen = F.embedding(nearest, embed).clone()
        if self.training:
            self._move(residual, nearest, index)
        return chosen

    def _move(self, residual: Tensor, nearest: Tensor, index: int) -> None:
        embed = self.codebooks[index].embed
        hits = torch.zeros_like(self.used[index]).index_add_(0, nearest, torch.ones_like(nearest, dtype=torch.float32))
        sums = torch.zeros_like(embed).index_add_(0, nearest, residual)
        hits, sums = ranks.total(hits), ranks.total(sums)
        self.used[index].lerp_(hits, 1 - self.decay)
        self.sums[index].lerp_(sums, 1 - self.decay)
        self._revive(residual, index, hits.sum())
        embed.copy_(self.sums[index] / self.used[index].clamp(min=1e-6)[:, None])

    def _revive(self, residual: Tensor, index: int, vectors: Tensor) -> None:
        """Replace codes used less than `dead_share` of an even share by vectors of this batch, alike on every rank."""
        even = vectors / len(self.used[index])
        dead = self.used[index] < self.dead_share * even
        generator = torch.Generator().manual_seed(hash((self.seed, int(self.step), index)) % 2**31)
        candidates = ranks.gather(residual)
        places = torch.randint(len(candidates), (len(dead),), generator=generator).to(residual.device)
        fresh = candidates[places] * even
        self.used[index] = torch.where(dead, even, self.used[index])
        self.sums[index] = torch.where(dead[:, None], fresh, self.sums[index])


def k_means(vectors: Tensor, clusters: int, *, iterations: int = 12, seed: int = 0) -> Tensor:
    """Centres [clusters, D] of vectors [N, D] by Lloyd's iterations from a seeded random start."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(len(vectors), generator=generator)
    if len(vectors) < clusters:
        places = torch.randint(len(vectors), (clusters,), generator=generator)
    centers = vectors[places[:clusters].to(vectors.device)].clone()
    for _ in range(iterations):
        nearest = torch.cdist(vectors, centers).argmin(1)
        counts = torch.bincount(nearest, minlength=clusters)
        sums = torch.zeros_like(centers).index_add_(0, nearest, vectors)
        centers = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centers)
    return centers
