"""The metric that a run watches: the best checkpoint is kept, and a run without progress ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import line
import pytest
import torch

from hemiola.errors import HemiolaError, InputError
from hemiola.train.fit import Run, fit

SCORES = (3.0, 2.0, 4.0, 1.0, 1.5, 1.0, 2.0, 3.0)


def train(folder: Path, scores: tuple[float, ...] = SCORES, resume: bool = False, **settings: Any) -> line.Line:
    run, module = line.run(folder, **{"monitor": "valid/score", **settings}), line.Line(scores)
    fit(module, line.points(run), run, resume=resume, progress=False)
    return module


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = line.Line.training_step

    def training_step(self: line.Line, batch: Any, batch_idx: int) -> Any:
        if batch_idx == step:
            raise SystemError("killed")
        return usual(self, batch, batch_idx)

    monkeypatch.setattr(line.Line, "training_step", training_step)


@pytest.mark.parametrize(("mode", "best"), [("min", 4), ("max", 3)])
def test_the_best_checkpoint_is_that_of_the_best_validation(tmp_path: Path, mode: str, best: int) -> None:
    train(tmp_path / "run", monitor_mode=mode)
    train(tmp_path / "short", steps=best, monitor=None)
    assert (line.done(tmp_path / "run", "best"), line.done(tmp_path / "run")) == (best, 8)
    at_best = line.weights(tmp_path / "short")
    assert all(torch.equal(at_best[name], each) for name, each in line.weights(tmp_path / "run", "best").items())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"best.ckpt", "last.ckpt", "metrics.csv"}


def test_what_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    train(tmp_path, (float("nan"), 2.0, float("nan"), 3.0), steps=4)
    assert line.done(tmp_path, "best") == 2


def test_without_a_monitor_there_is_only_the_last(tmp_path: Path) -> None:
    train(tmp_path, monitor=None)
    assert not (tmp_path / "best.ckpt").exists()


def test_a_resumed_run_knows_what_to_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched, pytest.raises(SystemError):
        kill_at(5, patched)
        train(tmp_path, checkpoint_every_steps=5)
    (tmp_path / "best.ckpt").unlink()
    train(tmp_path, checkpoint_every_steps=5, resume=True)
    assert not (tmp_path / "best.ckpt").exists()  # nothing after step 5 is better than step 4


def test_a_run_without_progress_ends_and_keeps_its_end(tmp_path: Path) -> None:
    train(tmp_path, (3.0, 2.0, 2.0, 2.5, 1.0, 1.0, 1.0, 1.0), patience=2)
    assert (line.done(tmp_path), line.done(tmp_path, "best")) == (4, 2)


def test_patience_is_counted_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint at step 3 follows its validation: of the two without progress, one is before it."""
    scores = (3.0, 2.0, 2.5, 2.5, 1.0, 1.0, 1.0, 1.0)
    with monkeypatch.context() as patched, pytest.raises(SystemError):
        kill_at(3, patched)
        train(tmp_path, scores, patience=2, checkpoint_every_steps=3)
    assert line.done(tmp_path) == 3
    train(tmp_path, scores, patience=2, checkpoint_every_steps=3, resume=True)
    assert line.done(tmp_path) == 4


def test_a_run_that_ended_early_is_resumed_to_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = (1.0, *[2.0] * 7)
    train(tmp_path, scores, patience=2)
    before = line.weights(tmp_path)
    with monkeypatch.context() as patched:
        kill_at(3, patched)  # would be an error, were a step made
        module = train(tmp_path, scores, patience=2, resume=True)
    assert all(torch.equal(before[name], each) for name, each in module.state_dict().items())
    train(tmp_path, (*scores[:4], 0.5, 0.4, 0.3, 0.2), patience=4, resume=True)
    assert (line.done(tmp_path), line.done(tmp_path, "best")) == (8, 8)


def test_an_unknown_metric_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.monitor: no metric valid/los; known are valid/score"):
        train(tmp_path, monitor="valid/los", patience=2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"patience": 2, "monitor": None}, r"run\.patience needs run\.monitor"),
        ({"patience": 0}, r"run\.patience must be at least 1, not 0"),
        ({"monitor_mode": "least"}, r"run\.monitor_mode must be min or max, not least"),
        ({"nodes": 0}, r"run\.nodes must be at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(HemiolaError, match=says):
        Run("folder", steps=1, batch=1, **{"monitor": "valid/score", **settings})
