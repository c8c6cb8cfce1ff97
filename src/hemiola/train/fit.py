"""Running a training: trainer, callbacks, logs and resume, shared by every module."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, RichProgressBar

from hemiola.errors import InputError
from hemiola.train import checkpoints, launcher, loggers
from hemiola.train.checkpoints import LAST, StepCheckpoint
from hemiola.train.finite import FiniteLoss
from hemiola.train.monitor import BestCheckpoint, Patience

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
    """How long, where and on what a training runs.

    `batch` is global, over all devices of all nodes; torchrun and srun say themselves how many those are. A step takes
    a device's share in `accumulate` parts, one after another, which need less memory than all of it at once. With a
    `monitor` (a metric of the validation, such as valid/loss, that should become `min` or `max`) the best checkpoint is
    kept beside the last one; with `patience`, the run ends after so many validations in a row that brought no progress.
    """

    folder: str
    steps: int
    batch: int
    seed: int = 0
    devices: int = 1
    nodes: int = 1
    accelerator: str = "auto"
    precision: str = "32-true"
    workers: int = 0
    accumulate: int = 1
    validate_every_steps: int = 500
    checkpoint_every_steps: int = 500
    log_every_steps: int = 20
    monitor: str | None = None
    monitor_mode: str = "min"
    patience: int | None = None
    loggers: tuple[str, ...] = ("csv",)

    def __post_init__(self) -> None:
        every = ("validate_every_steps", "checkpoint_every_steps", "log_every_steps")
        for name in ("steps", "batch", "devices", "nodes", "accumulate", *every, "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"run.{name} must be at least 1, not {value}")
        if self.monitor_mode not in ("min", "max"):
            raise InputError(f"run.monitor_mode must be min or max, not {self.monitor_mode}")
        if self.patience and not self.monitor:
            raise InputError("run.patience needs run.monitor: the metric that should become better")
        loggers.check(self.loggers)


def fit(
    module: L.LightningModule,
    data: L.LightningDataModule,
    run: Run,
    *,
    resume: bool = False,
    progress: bool = True,
    callbacks: tuple[Callback, ...] = (),
) -> L.Trainer:
    """Train `module` for `run.steps` batches; checkpoints and metrics go to `run.folder`.

    With `resume` the run goes on from its last checkpoint. Without it, a folder that holds one is refused. Raises
    InputError for both mistakes, HemiolaError when a loss is not finite, Interrupted when a signal asks to leave.
    """
    check_folder(run, resume)
    last = Path(run.folder) / LAST
    with warnings.catch_warnings():
        for message in SETTLED:
            warnings.filterwarnings("ignore", message)
        trainer = _trainer(run, takes_turns(module), resume, progress, callbacks)
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
    done = checkpoints.progress(last)
    # The learning rate has come to its end with the run, so there is nothing to go on from.
    if done["is_last_batch"] and checkpoints.steps(done) < run.steps:
        raise InputError(
            f"the run in {run.folder} ended after {checkpoints.steps(done)} steps: "
            f"for {run.steps}, choose another run.folder"
        )


def takes_turns(module: L.LightningModule) -> bool:
    """Whether a step leaves parameters out, as where a model and its discriminator take turns; the module may say."""
    return getattr(module, "takes_turns", not module.automatic_optimization)


def _trainer(run: Run, in_turns: bool, resume: bool, progress: bool, callbacks: tuple[Callback, ...]) -> L.Trainer:
    launched = launcher.environment()
    devices, nodes = launcher.processes(launched, run.devices, run.nodes)
    opened = loggers.open_loggers(run.loggers, Path(run.folder), run.log_every_steps, resume)
    return L.Trainer(
        accelerator=run.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=_strategy(devices * nodes, in_turns),
        plugins=[launched],
        # Lightning's own list of what it takes; it names them all where one is not on it.
        precision=run.precision,  # type: ignore[arg-type]
        max_epochs=1,
        val_check_interval=min(run.validate_every_steps, run.steps),
        log_every_n_steps=run.log_every_steps,
        callbacks=[*_callbacks(run), *_shown(bool(opened), progress), *callbacks],
        logger=opened,
        default_root_dir=run.folder,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )


def _strategy(processes: int, in_turns: bool) -> str:
    if processes == 1:
        return "auto"
    return "ddp_find_unused_parameters_true" if in_turns else "ddp"


def _callbacks(run: Run) -> list[Callback]:
    """In the order in which they look at a step: what is not finite comes before what is kept, the last one last."""
    folder = Path(run.folder)
    called: list[Callback] = [FiniteLoss()]
    if run.monitor:
        called.append(BestCheckpoint(folder, run.monitor, run.monitor_mode))
    if run.monitor and run.patience:
        called.append(Patience(run.monitor, run.monitor_mode, run.patience))
    return [*called, StepCheckpoint(folder, run.checkpoint_every_steps)]


def _shown(logged: bool, progress: bool) -> list[Callback]:
    shown: list[Callback] = [LearningRateMonitor("step")] if logged else []
    # On stdout only what was written is named.
    return [*shown, RichProgressBar(console_kwargs={"stderr": True})] if progress else shown
