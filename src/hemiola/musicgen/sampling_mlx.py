"""The pick in MLX: from logits and uniform numbers to tokens, with settings of its own for every request."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx.core import array as Tensor

from hemiola.musicgen.sampling import Sampling


class Picker:
    """Picks tokens by inverting each distribution's cumulative sum; the settings stay with it for all steps."""

    def __init__(self, settings: Sequence[Sampling], vocab_size: int, device: str) -> None:
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
        # Sums of thousands of terms want float64; no GPU has it here.
        self.sum_dtype = mx.float64 if device == "cpu" else mx.float32

    def __call__(self, logits: Tensor, draws: Tensor) -> Tensor:
        """Logits float32 [B, K, vocab] and draws [B, K] in (0, 1] -> tokens uint32 [B, K]."""
        if self.all_greedy:
            return logits.argmax(-1)
        weights = self._weights(logits)
        # A GPU adds in parts, and by rounding a sum may change over a token of weight 0: such sums do not count.
        sums = mx.where(weights == 0, 0, weights.astype(self.sum_dtype).cumsum(-1))
        # The first token whose sum reaches the draw; where sums are no numbers, one past the last.
        total = sums.max(-1, keepdims=True)
        picked = mx.where(mx.isnan(total[..., 0]), logits.shape[-1], (sums >= draws[..., None] * total).argmax(-1))
        return mx.where(self.greedy, logits.argmax(-1), picked) if self.any_greedy else picked

    def _weights(self, logits: Tensor) -> Tensor:
        """What each token weighs: its probability if it is kept, else 0; they need not sum to 1."""
        weights = mx.softmax(logits / self.temperature if self.is_warm else logits, axis=-1, precise=True)
        if self.limits_k:
            weights = weights * (logits >= self._kth(logits))
        if not self.limits_p:
            return weights
        falling = -mx.sort(-weights, axis=-1)
        is_needed = falling.cumsum(-1) - falling < self.top_p * falling.sum(-1)[..., None]
        return weights * (weights >= mx.where(is_needed, falling, mx.inf).min(-1, keepdims=True))

    def _kth(self, logits: Tensor) -> Tensor:
        """The k-th largest logit of each row, [B, K, 1]."""
        largest = mx.topk(logits, self.largest_k, axis=-1)
        if self.same_k:
            return largest.min(-1, keepdims=True)
        last_kept = mx.broadcast_to(self.last_kept, (*logits.shape[:2], 1))
        return mx.take_along_axis(-mx.sort(-largest, axis=-1), last_kept, axis=-1)
