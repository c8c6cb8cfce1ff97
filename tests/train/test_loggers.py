"""Where metrics go: a file by default, others by name, and what to install for them."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import line
import pytest

from hemiola.errors import BackendError, InputError
from hemiola.train import loggers
from hemiola.train.fit import fit


def train(folder: Path, **settings: Any) -> None:
    run = line.run(folder, validate_every_steps=4, **settings)
    fit(line.Line((3.0, 2.0)), line.points(run), run, progress=False)


def test_a_file_is_the_usual_place(tmp_path: Path) -> None:
    train(tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["valid/score"]) for row in rows if row["valid/score"]] == [3.0, 2.0]
    assert len([row for row in rows if row["train/loss"]]) == 8


def test_no_logger_is_a_choice(tmp_path: Path) -> None:
    train(tmp_path, loggers=())
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_the_same(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tmp_path, loggers=("csv", "tensorboard"))
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [each.value for each in events.Scalars("valid/score")] == [3.0, 2.0]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        logged = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert [each.value for each in events.Scalars("train/loss")] == pytest.approx(logged)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_one_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("Requirement not met. Try pip install something\nor something else")

    monkeypatch.setattr(loggers, {"tensorboard": "TensorBoardLogger", "mlflow": "MLFlowLogger"}[name], missing)
    with pytest.raises(BackendError) as caught:
        train(tmp_path, loggers=("csv", name))
    assert str(caught.value) == f"run.loggers: {name} is not installed: pip install 'hemiola[{name}]'"
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="mlflow is installed")
def test_a_logger_of_lightning_that_is_missing_is_understood(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"hemiola\[mlflow\]"):
        loggers.open_loggers(("mlflow",), tmp_path, 1, False)


def test_an_unknown_logger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.loggers: no logger cvs; known are csv, tensorboard, mlflow"):
        line.run(tmp_path, loggers=("cvs",))
