"""Where the metrics of a run go: metrics.csv, TensorBoard, MLflow."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from hemiola.errors import BackendError, InputError
from hemiola.train import checkpoints

KNOWN = ("csv", "tensorboard", "mlflow")


def check(names: Sequence[str]) -> None:
    """Raise InputError for a logger that is not known."""
    for name in names:
        if name not in KNOWN:
            raise InputError(f"run.loggers: no logger {name}; known are {', '.join(KNOWN)}")


def open_loggers(names: Sequence[str], folder: Path, flush_every_steps: int, resume: bool) -> list[Logger]:
    """Open the named loggers of the run in `folder`; raises BackendError where one is not installed.

    MLflow keeps its files in `folder`/mlruns, or where MLFLOW_TRACKING_URI says.
    """
    opened: list[Logger] = []
    for name in names:
        try:
            if name == "csv":
                opened.append(_csv(folder, flush_every_steps, resume))
            elif name == "tensorboard":
                opened.append(TensorBoardLogger(folder, name="", version=""))
            else:
                uri = os.environ.get("MLFLOW_TRACKING_URI", (folder / "mlruns").absolute().as_uri())
                opened.append(MLFlowLogger("hemiola", run_name=folder.name, tracking_uri=uri))
        except ModuleNotFoundError:
            raise BackendError(f"run.loggers: {name} is not installed: pip install 'hemiola[{name}]'") from None
    return opened


def _csv(folder: Path, flush_every_steps: int, resume: bool) -> CSVLogger:
    """Metrics in `folder`/metrics.csv; where a run is resumed they go on, which the logger alone does not do."""
    logger = CSVLogger(folder, name="", version="", flush_logs_every_n_steps=flush_every_steps)
    if resume:
        _carry_over(logger, folder)
    return logger


@rank_zero_only
def _carry_over(logger: CSVLogger, folder: Path) -> None:
    """Keep the metrics of all steps before the checkpoint; those after it will be logged again."""
    path = folder / "metrics.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    except FileNotFoundError:  # nothing was logged, or a process that does not know its rank yet has just opened it
        return
    steps = checkpoints.steps(checkpoints.progress(folder / checkpoints.LAST))
    # Opening the logger's file empties it.
    logger.experiment.metrics.extend(row for row in rows if int(row["step"]) < steps)
    logger.save()
