"""Running a training: trainer, checkpoints, logs and resume, shared by every module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from hemiola.errors import HemiolaError, InputError


@dataclass(frozen=True)
class Run:
    """How long, where and on what a training runs; `batch` is global, over all devices."""

    folder: str
    steps: int
    batch: int
    seed: int = 0
    devices: int = 1
    accelerator: str = "auto"
    precision: str = "32-true"
    workers: int = 0
    validate_every_steps: int = 500
    checkpoint_every_steps: int = 500
    log_every_steps: int = 20


class FiniteLoss(Callback):
    """Stops a run at the first loss that is not finite, and says at which step."""

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        """Look at what the step has logged; reading it costs one synchronisation a step."""
        logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        if not all(map(torch.isfinite, map(torch.tensor, logged.values()))):
            report = ", ".join(f"{name.removeprefix('train/')} {value:.4g}" for name, value in logged.items())
            raise HemiolaError(f"a loss is not finite at step {trainer.fit_loop.total_batch_idx}: {report}")


def fit(module: L.LightningModule, data: L.LightningDataModule, run: Run, *, resume: bool = False, progress: bool = True,
        callbacks: tuple[Callback, ...] = ()) -> L.Trainer:
    """Train `module` for `run.steps` batches; checkpoints and metrics.csv go to `run.folder`.

    With `resume` the run goes on from its last checkpoint. Without it, a folder that holds one is refused.
    """
    folder = Path(run.folder)
    last = folder / "last.ckpt"
    if last.exists() and not resume:
        raise InputError(f"{folder} already holds a run: go on with --resume, or choose another run.folder")
    if resume and not last.exists():
        raise InputError(f"no checkpoint to resume from in {folder}")
    keep = ModelCheckpoint(
        folder, filename="step", save_last=True, every_n_train_steps=run.checkpoint_every_steps, enable_version_counter=False
    )
    trainer = L.Trainer(
        accelerator=run.accelerator,
        devices=run.devices,
        precision=run.precision,  # type: ignore[arg-type]
        max_epochs=1,
        val_check_interval=min(run.validate_every_steps, run.steps),
        log_every_n_steps=run.log_every_steps,
        callbacks=[keep, LearningRateMonitor("step"), FiniteLoss(), *callbacks],
        logger=CSVLogger(folder, name="", version="", flush_logs_every_n_steps=run.log_every_steps),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
    trainer.fit(module, data, ckpt_path=last if resume else None)
    return trainer
