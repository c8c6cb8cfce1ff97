"""The pick in PyTorch: from logits and uniform numbers to tokens, with settings of its own for every request."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hemiola.musicgen.sampling import Sampling


class Picker:
    """Picks tokens by inverting each distribution's cumulative sum; the settings stay with it for all steps."""

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
        # Sums of thousands of terms want float64; Apple's GPU has none.
        self.sum_dtype = torch.float32 if device.type == "mps" else torch.float64

    def __call__(self, logits: Tensor, draws: Tensor) -> Tensor:
        """Logits float32 [B, K, vocab] and draws [B, K] in (0, 1] -> tokens int64 [B, K]."""
        if self.all_greedy:
            return logits.argmax(-1)
        sums = self._weights(logits).cumsum(-1, dtype=self.sum_dtype)
        # The first token whose sum reaches the draw: one of weight 0 adds nothing, so it is never the first.
        picked = torch.searchsorted(sums, draws[..., None] * sums[..., -1:])[..., 0]
        return torch.where(self.greedy, logits.argmax(-1), picked) if self.any_greedy else picked

    def _weights(self, logits: Tensor) -> Tensor:
        """What each token weighs: its probability if it is kept, else 0; they need not sum to 1."""
        weights = (logits / self.temperature if self.is_warm else logits).softmax(-1)
        if self.limits_k:
            weights = weights * (logits >= self._kth(logits))
        if not self.limits_p:
            return weights
        falling = weights.sort(-1, descending=True).values
        is_needed = falling.cumsum(-1) - falling < self.top_p * falling.sum(-1)[..., None]
        return weights * (weights >= falling.masked_fill(~is_needed, torch.inf).amin(-1, keepdim=True))

    def _kth(self, logits: Tensor) -> Tensor:
        """The k-th largest logit of each row, [B, K, 1]."""
        if self.same_k:
            return logits.topk(self.largest_k, sorted=False).values.amin(-1, keepdim=True)
        return logits.topk(self.largest_k).values.gather(-1, self.last_kept.expand(-1, logits.shape[1], -1))
