"""Checkpoints of a run: the last one, written step by step and when a run has to leave, and what they tell."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from hemiola.errors import HemiolaError
from hemiola.train.signals import Signals

LAST, BEST = "last.ckpt", "best.ckpt"


class Interrupted(HemiolaError):
    """A signal asked the run to leave; its last checkpoint is written. Exits as shells count, 128 + signal."""

    def __init__(self, number: int, folder: Path) -> None:
        super().__init__(f"{signal.Signals(number).name}: stopped after a checkpoint in {folder}, go on with --resume")
        self.exit_code = 128 + number


class StepCheckpoint(Checkpoint):
    """Writes `folder`/last.ckpt every so many batches, after the last one, and when a signal asks the run to leave.

    Batches, not optimizer steps: a step with a discriminator takes two of those. Where a validation follows the batch,
    the checkpoint follows the validation, so that what the validation decides is in it.
    """

    def __init__(self, folder: Path, every_steps: int) -> None:
        super().__init__()
        self.path, self.every_steps = folder / LAST, every_steps
        self.signals, self.due = Signals(), False

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Listen for signals; before, there is nothing to save."""
        self.signals.listen()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, unless a validation comes first."""
        asked = self.signals.agreed(module.device)
        self.due = bool(asked) or (batch_idx + 1) % self.every_steps == 0 or trainer.is_last_batch
        if self.due and not _validation_follows(trainer, batch_idx):
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save what was due before the validation, or what the validation ends."""
        if self.due or trainer.should_stop:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Signals end the process again."""
        self.signals.ignore()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Signals end the process again."""
        self.signals.ignore()

    def save(self, trainer: L.Trainer) -> None:
        """Write last.ckpt; raises Interrupted where a signal was why."""
        for logger in trainer.loggers:
            logger.save()
        write(trainer, self.path)
        self.due = False
        if self.signals.heard:
            raise Interrupted(self.signals.heard, self.path.parent)


def write(trainer: L.Trainer, path: Path) -> None:
    """Save beside the checkpoint at `path`, then put it in its place: a kill never leaves half a file.

    Every rank has to call this.
    """
    partial = path.with_suffix(".partial")
    trainer.save_checkpoint(partial, weights_only=False)
    if trainer.is_global_zero:
        partial.replace(path)


def resumable(folder: str | Path) -> bool:
    """Whether a run in `folder` has a checkpoint to go on from."""
    return (Path(folder) / LAST).exists()


def progress(checkpoint: Path) -> dict[str, Any]:
    """How far a run had come: Lightning's count of batches, and `is_last_batch`."""
    content = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    return content["loops"]["fit_loop"]["epoch_loop.batch_progress"]


def steps(progress: dict[str, Any]) -> int:
    """The steps that are done."""
    return progress["current"]["processed"]


def _validation_follows(trainer: L.Trainer, batch_idx: int) -> bool:
    every = trainer.val_check_batch
    return trainer.enable_validation and every is not None and (batch_idx + 1) % every == 0
