"""A module of two weights that learns a line, and says of its validation what a test wants it to say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hemiola.train.data import StepData
from hemiola.train.fit import Run


class Points(Dataset):
    """Item i is a pair (x, 2 x + 1), drawn by i; `poisoned` items are not finite."""

    def __init__(self, poisoned: Sequence[int] = ()) -> None:
        self.poisoned = poisoned

    def __len__(self) -> int:
        return 4

    def __getitem__(self, item: int) -> Tensor:
        x = torch.randn(1, generator=torch.Generator().manual_seed(item))
        return torch.cat([x, 2 * x + 1]) * (float("nan") if item in self.poisoned else 1)


class Line(L.LightningModule):
    """Logs `valid/score` from a list, a value a validation."""

    def __init__(self, scores: Sequence[float] = (), manual: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = not manual
        self.line = torch.nn.Linear(1, 1)
        torch.nn.init.ones_(self.line.weight)
        torch.nn.init.zeros_(self.line.bias)
        self.scores = scores

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        apart = self.line(batch[:, :1]) - batch[:, 1:]
        loss = apart.square().mean()
        self.log_dict({"train/loss": loss.detach(), "train/size": self.line.weight.detach().abs().sum()})
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed
        every = self.trainer.val_check_batch
        self.log("valid/score", self.scores[done // int(every) - 1])


def run(folder: Path, **settings: Any) -> Run:
    usual = {"steps": 8, "batch": 2, "validate_every_steps": 1, "checkpoint_every_steps": 100, "log_every_steps": 1}
    return Run(str(folder), accelerator="cpu", **{**usual, **settings})


def points(run: Run, poisoned: Sequence[int] = ()) -> StepData:
    return StepData(Points(poisoned), Points(), steps=run.steps, batch=run.batch)


def done(folder: Path, name: str = "last") -> int:
    """Steps in a checkpoint."""
    content = torch.load(folder / f"{name}.ckpt", weights_only=True)
    return content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"]


def weights(folder: Path, name: str = "last") -> dict[str, Tensor]:
    return torch.load(folder / f"{name}.ckpt", weights_only=True)["state_dict"]
