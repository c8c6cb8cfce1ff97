"""The pick in PyTorch: from logits and noise to tokens, with settings of its own for every request."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hemiola.musicgen.sampling import Sampling


class Picker:
    """Picks the token whose logit plus Gumbel noise is the largest; the settings stay with it for all steps."""

    def __init__(self, settings: Sequence[Sampling], vocab_size: int, device: torch.device) -> None:
        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, device=device)[:, None, None]

        top_k = [min(each.top_k or vocab_size, vocab_size) for each in settings]
        self.largest_k = max(top_k)
        self.limits_k = min(top_k) < vocab_size
        self.same_k = min(top_k) == self.largest_k
        self.last_kept = column(top_k).long() - 1
        self.limits_p = any(each.top_p not in (None, 1) for each in settings)
        # More than the whole keeps every token, also where rounding leaves the sum a little above 1.
        self.top_p = column([2.0 if each.top_p in (None, 1) else each.top_p or 0.0 for each in settings])
        self.temperature = column([1.0 if each.is_greedy else each.temperature for each in settings])
        self.is_warm = any(each.temperature not in (0, 1) for each in settings)
        self.greedy = torch.tensor([[each.is_greedy] for each in settings], device=device)
        self.any_greedy = any(each.is_greedy for each in settings)
        self.all_greedy = all(each.is_greedy for each in settings)

    def __call__(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Logits and noise float32 [B, K, vocab] -> tokens int64 [B, K]; vocab where the logits are no numbers."""
        likeliest = logits.argmax(-1)
        picked = likeliest if self.all_greedy else (self._kept(logits) + noise).argmax(-1)
        picked = torch.where(self.greedy, likeliest, picked) if self.any_greedy else picked
        return picked.masked_fill(logits.amax(-1).isnan(), logits.shape[-1])

    def _kept(self, logits: Tensor) -> Tensor:
        """The logits that noise is added to: tempered, and minus infinity where a token is not kept."""
        scores = logits / self.temperature if self.is_warm else logits
        if self.limits_k:
            scores = scores.masked_fill(logits < self._kth(logits), -torch.inf)
        if not self.limits_p:
            return scores
        weights = scores.softmax(-1)
        falling = weights.sort(-1, descending=True).values
        is_needed = falling.cumsum(-1) - falling < self.top_p
        return scores.masked_fill(
            weights < falling.masked_fill(~is_needed, torch.inf).amin(-1, keepdim=True), -torch.inf
        )

    def _kth(self, logits: Tensor) -> Tensor:
        """The k-th largest logit of each row, [B, K, 1]."""
        if self.same_k:
            return logits.topk(self.largest_k, sorted=False).values.amin(-1, keepdim=True)
        return logits.topk(self.largest_k).values.gather(-1, self.last_kept.expand(-1, logits.shape[1], -1))
