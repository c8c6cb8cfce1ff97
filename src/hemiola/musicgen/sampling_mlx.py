"""The pick in MLX: from logits and noise to tokens, with settings of its own for every request."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx.core import array as Tensor

from hemiola.musicgen.sampling import Sampling


class Picker:
    """Picks the token whose logit plus Gumbel noise is the largest; the settings stay with it for all steps."""

    def __init__(self, settings: Sequence[Sampling], vocab_size: int) -> None:
        def column(values: Sequence[float]) -> Tensor:
            return mx.array(list(values))[:, None, None]

        top_k = [min(each.top_k or vocab_size, vocab_size) for each in settings]
        self.largest_k = max(top_k)
        self.limits_k = min(top_k) < vocab_size
        self.same_k = min(top_k) == self.largest_k
        self.last_kept = column(top_k) - 1
        self.limits_p = any(each.top_p not in (None, 1) for each in settings)
        # More than the whole keeps every token, also where rounding leaves the sum a little above 1.
        self.top_p = column([2.0 if each.top_p in (None, 1) else each.top_p or 0.0 for each in settings])
        self.temperature = column([1.0 if each.is_greedy else each.temperature for each in settings])
        self.is_warm = any(each.temperature not in (0, 1) for each in settings)
        self.greedy = mx.array([[each.is_greedy] for each in settings])
        self.any_greedy = any(each.is_greedy for each in settings)
        self.all_greedy = all(each.is_greedy for each in settings)

    def __call__(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Logits and noise float32 [B, K, vocab] -> tokens uint32 [B, K]; vocab where the logits are no numbers."""
        likeliest = logits.argmax(-1)
        picked = likeliest if self.all_greedy else (self._kept(logits) + noise).argmax(-1)
        picked = mx.where(self.greedy, likeliest, picked) if self.any_greedy else picked
        return mx.where(mx.isnan(logits.max(-1)), logits.shape[-1], picked)

    def _kept(self, logits: Tensor) -> Tensor:
        """The logits that noise is added to: tempered, and minus infinity where a token is not kept."""
        scores = logits / self.temperature if self.is_warm else logits
        if self.limits_k:
            scores = mx.where(logits < self._kth(logits), -mx.inf, scores)
        if not self.limits_p:
            return scores
        weights = mx.softmax(scores, axis=-1, precise=True)
        falling = -mx.sort(-weights, axis=-1)
        is_needed = falling.cumsum(-1) - falling < self.top_p
        return mx.where(weights < mx.where(is_needed, falling, mx.inf).min(-1, keepdims=True), -mx.inf, scores)

    def _kth(self, logits: Tensor) -> Tensor:
        """The k-th largest logit of each row, [B, K, 1]."""
        largest = mx.topk(logits, self.largest_k, axis=-1)
        if self.same_k:
            return largest.min(-1, keepdims=True)
        last_kept = mx.broadcast_to(self.last_kept, (*logits.shape[:2], 1))
        return mx.take_along_axis(-mx.sort(-largest, axis=-1), last_kept, axis=-1)
