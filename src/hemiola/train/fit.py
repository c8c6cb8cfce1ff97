"""Running a training: trainer, checkpoints, logs and resume, shared by every module."""

from __future__ import annotations

import csv
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from hemiola.errors import HemiolaError, InputError
from hemiola.train import ranks

LAST = "last.ckpt"
# What Lightning warns of and is taken care of here, as the order of the data is, or is its own to settle.
SETTLED = (
    ".*LeafSpec",
    ".*ended before the epoch ended and your dataloader is not resumable",
    ".*Experiment logs directory",
    ".*does not have many workers",
    ".*callbacks used to create the checkpoint need to be provided",
)


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

    def __post_init__(self) -> None:
        counts = ("steps", "batch", "devices", "validate_every_steps", "checkpoint_every_steps", "log_every_steps")
        for name in counts:
            if getattr(self, name) < 1:
                raise InputError(f"run.{name} must be at least 1, not {getattr(self, name)}")


class FiniteLoss(Callback):
    """Stops a run at the first loss that is not finite, and says at which step."""

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        """Look at what the step has logged; reading it costs one synchronisation a step."""
        logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        broken = not all(map(math.isfinite, logged.values()))
        # All ranks stop together: one that stops alone leaves the others waiting.
        if ranks.total(torch.tensor(float(broken), device=module.device)) > 0:
            report = ", ".join(f"{name.removeprefix('train/')} {value:.4g}" for name, value in logged.items())
            raise HemiolaError(f"a loss is not finite at step {trainer.fit_loop.total_batch_idx}: {report}")


class StepCheckpoint(Checkpoint):
    """Writes `folder`/last.ckpt every so many batches and after the last one; a kill never leaves half a file.

    Batches, not optimizer steps: a step with a discriminator takes two of those.
    """

    def __init__(self, folder: Path, every_steps: int) -> None:
        super().__init__()
        self.path, self.every_steps = folder / LAST, every_steps

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save beside the last checkpoint, then put it in its place."""
        if (batch_idx + 1) % self.every_steps and not trainer.is_last_batch:
            return
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)
        if trainer.is_global_zero:
            partial.replace(self.path)


def fit(
    module: L.LightningModule,
    data: L.LightningDataModule,
    run: Run,
    *,
    resume: bool = False,
    progress: bool = True,
    callbacks: tuple[Callback, ...] = (),
) -> L.Trainer:
    """Train `module` for `run.steps` batches; checkpoints and metrics.csv go to `run.folder`.

    With `resume` the run goes on from its last checkpoint. Without it, a folder that holds one is refused. Raises
    InputError for both mistakes, HemiolaError when a loss is not finite.
    """
    check_folder(run, resume)
    last = Path(run.folder) / LAST
    with warnings.catch_warnings():
        for message in SETTLED:
            warnings.filterwarnings("ignore", message)
        trainer = _trainer(run, _strategy(module, run), _logger(run, resume), progress, callbacks)
        trainer.fit(module, data, ckpt_path=last if resume else None, weights_only=True)
    return trainer


def check_folder(run: Run, resume: bool) -> None:
    """Raise InputError where `run.folder` holds a run that would be overwritten, or none that can be resumed."""
    last = Path(run.folder) / LAST
    if last.exists() and not resume:
        raise InputError(f"{run.folder} already holds a run: go on with --resume, or choose another run.folder")
    if not resume:
        return
    if not last.exists():
        raise InputError(f"no checkpoint to resume from in {run.folder}")
    done = _progress(last)
    # The learning rate has come to its end with the run, so there is nothing to go on from.
    if done["is_last_batch"] and _steps(done) < run.steps:
        raise InputError(
            f"the run in {run.folder} ended after {_steps(done)} steps: for {run.steps}, choose another run.folder"
        )


def _progress(checkpoint: Path) -> dict[str, Any]:
    content = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    return content["loops"]["fit_loop"]["epoch_loop.batch_progress"]


def _steps(progress: dict[str, Any]) -> int:
    return progress["current"]["processed"]


def _strategy(module: L.LightningModule, run: Run) -> str:
    if run.devices == 1:
        return "auto"
    # Where codec and discriminator take turns, each step leaves the other's parameters out.
    return "ddp" if module.automatic_optimization else "ddp_find_unused_parameters_true"


def _trainer(run: Run, strategy: str, logger: CSVLogger, progress: bool, callbacks: tuple[Callback, ...]) -> L.Trainer:
    keep = StepCheckpoint(Path(run.folder), run.checkpoint_every_steps)
    return L.Trainer(
        accelerator=run.accelerator,
        devices=run.devices,
        strategy=strategy,
        precision=run.precision,  # type: ignore[arg-type]
        max_epochs=1,
        val_check_interval=min(run.validate_every_steps, run.steps),
        log_every_n_steps=run.log_every_steps,
        callbacks=[keep, LearningRateMonitor("step"), FiniteLoss(), *callbacks],
        logger=logger,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )


def _logger(run: Run, resume: bool) -> CSVLogger:
    """Metrics in `run.folder`/metrics.csv; where a run is resumed they go on, which the logger alone does not do."""
    logger = CSVLogger(run.folder, name="", version="", flush_logs_every_n_steps=run.log_every_steps)
    if resume:
        _carry_over(logger, Path(run.folder))
    return logger


@rank_zero_only
def _carry_over(logger: CSVLogger, folder: Path) -> None:
    """Keep the metrics of all steps before the checkpoint; those after it will be logged again."""
    path = folder / "metrics.csv"
    if not path.exists():
        return
    steps = _steps(_progress(folder / LAST))
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    # Opening the logger's file empties it.
    logger.experiment.metrics.extend(row for row in rows if int(row["step"]) < steps)
    logger.save()
