"""A run that is asked to leave writes its checkpoint first, and goes on from there."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import line
import pytest
import torch

from hemiola.train.checkpoints import Interrupted, resumable
from hemiola.train.fit import fit


class Signalled(line.Line):
    """Gets a signal in the middle of a step."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
        self.number, self.step = number, step

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor | None:
        if batch_idx == self.step:
            os.kill(os.getpid(), self.number)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("validate", [8, 3])  # a step with a validation after it is step 2 of 3, 6, ...
def test_a_signal_ends_the_run_after_its_step(tmp_path: Path, number: signal.Signals, validate: int) -> None:
    def train(name: str, module: line.Line, resume: bool = False) -> line.Line:
        run = line.run(tmp_path / name, validate_every_steps=validate, monitor="valid/score", patience=3)
        fit(module, line.points(run), run, resume=resume, progress=False)
        return module

    usual = signal.getsignal(number)
    assert not resumable(tmp_path / "parts")
    with pytest.raises(Interrupted, match=rf"^{number.name}: stopped after a checkpoint in .*/parts, go on") as left:
        train("parts", Signalled(number, 2))
    assert left.value.exit_code == 128 + number
    assert signal.getsignal(number) == usual
    assert resumable(tmp_path / "parts")
    assert line.done(tmp_path / "parts") == 3
    train("parts", Signalled(number, -1), resume=True)
    train("whole", Signalled(number, -1))
    parts, whole = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("parts", "whole"))
    assert parts["callbacks"] == whole["callbacks"]
    assert all(torch.equal(parts["state_dict"][name], each) for name, each in whole["state_dict"].items())
    assert signal.getsignal(number) == usual
