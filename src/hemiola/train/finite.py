"""Losses that are not finite: they end a run, with a report, before anything is kept of them."""

from __future__ import annotations

import math

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer

from hemiola.errors import HemiolaError
from hemiola.train import ranks


class FiniteLoss(Callback):
    """Stops a run at the first loss or gradient that is not finite: says at which step, and what all its losses were.

    No optimizer takes such a gradient in, and no checkpoint is written of such a step. All ranks stop together: one
    that stops alone leaves the others waiting.
    """

    def __init__(self) -> None:
        self.broken = False

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Optimizer) -> None:
        """Take gradients away that are not finite; the step goes on, so that all its losses are known at its end."""
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return  # In half precision gradients may overflow: the scaler sees to that.
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        # Gradients are the same on every rank by now. The norm is the one that clipping takes; this clips nothing.
        if not torch.isfinite(torch.nn.utils.clip_grad_norm_(parameters, math.inf)):
            self.broken = True
            optimizer.zero_grad(set_to_none=True)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        """Look at what the step has logged; reading it costs one synchronisation a step."""
        logged = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        if not logged:
            return
        # What is not finite on one rank is not finite in the mean.
        means = ranks.mean(torch.stack([value.to(module.device, torch.float32) for value in logged.values()])).tolist()
        finite = all(map(math.isfinite, means))
        if self.broken or not finite:
            what = "gradient" if finite else "loss"
            report = ", ".join(f"{name.removeprefix('train/')} {value:.4g}" for name, value in zip(logged, means))
            raise HemiolaError(f"a {what} is not finite at step {trainer.fit_loop.total_batch_idx}: {report}")
