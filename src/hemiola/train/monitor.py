"""What a run does about the metric it watches: keeps its best checkpoint, and stops when there is no progress."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from hemiola.errors import InputError
from hemiola.train import checkpoints, ranks


class BestCheckpoint(Checkpoint):
    """Writes `folder`/best.ckpt after each validation whose metric is better than all before.

    Lightning's ModelCheckpoint goes through a temporary folder, which may stand on another disk: a kill while it is
    copied from there leaves half a file.
    """

    def __init__(self, folder: Path, metric: str, mode: str) -> None:
        super().__init__()
        self.path, self.metric, self.sign = folder / checkpoints.BEST, metric, 1 if mode == "min" else -1
        self.best = math.inf

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save where this is the best so far; what is no number never is. Raises InputError for an unknown metric."""
        value = self.sign * float(ranks.mean(_measured(trainer, self.metric).to(module.device)))
        if value < self.best:
            self.best = value
            checkpoints.write(trainer, self.path)

    def state_dict(self) -> dict[str, Any]:
        """The best value, so that a resumed run knows what to beat."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best value back."""
        self.best = state_dict["best"]


class Patience(EarlyStopping):
    """Ends a run, on all ranks, after so many validations in a row that brought no progress.

    How many there were is in the checkpoint: a resumed run counts on, and one that had ended stays so.
    """

    def __init__(self, metric: str, mode: str, patience: int) -> None:
        usual = {"strict": False, "check_finite": False, "check_on_train_epoch_end": False}
        super().__init__(metric, mode=mode, patience=patience, **usual)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Go no further where the run had ended."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the count back, and keep the patience of the config."""
        super().load_state_dict({**state_dict, "patience": self.patience})


def _measured(trainer: L.Trainer, metric: str) -> torch.Tensor:
    metrics = trainer.callback_metrics
    if metric not in metrics:
        known = ", ".join(sorted(name for name in metrics if name.startswith("valid/")))
        raise InputError(f"run.monitor: no metric {metric}; known are {known or 'none'}")
    return metrics[metric]
