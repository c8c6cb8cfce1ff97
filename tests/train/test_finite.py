"""A batch that is not finite ends the run with its report, and nothing is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import line
import pytest
import torch

from hemiola.errors import HemiolaError
from hemiola.train import runs
from hemiola.train.data import Segments
from hemiola.train.fit import fit


@pytest.mark.parametrize("manual", [False, True])
def test_no_optimizer_takes_it_in_and_the_last_checkpoint_stays(tmp_path: Path, manual: bool) -> None:
    run, module = line.run(tmp_path, checkpoint_every_steps=1, validate_every_steps=8), line.Line((1.0,), manual=manual)
    with pytest.raises(HemiolaError, match=r"^a loss is not finite at step 3: loss nan, size 1\.\d+$"):
        fit(module, line.points(run, poisoned=[7]), run, progress=False)
    assert line.done(tmp_path) == 3
    kept = line.weights(tmp_path)
    assert all(torch.equal(kept[name], each) and each.isfinite().all() for name, each in module.state_dict().items())


class Steep(line.Line):
    """A loss that is finite and a gradient that is not: the root of nothing."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        assert loss is not None
        return loss + (0 * self.line.weight.sum()).sqrt() if batch_idx == 2 else loss


def test_a_gradient_that_is_not_finite_ends_it_too(tmp_path: Path) -> None:
    run, module = line.run(tmp_path, validate_every_steps=8), Steep((1.0,))
    with pytest.raises(HemiolaError, match=r"^a gradient is not finite at step 2: loss \d.*, size \d"):
        fit(module, line.points(run), run, progress=False)
    assert all(each.isfinite().all() for each in module.parameters())


def test_a_codec_reports_every_loss(
    codec_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, quiet, modules = Segments.__getitem__, runs.fit, []

    def poisoned(self: Segments, item: int) -> torch.Tensor:
        return usual(self, item) * (float("nan") if item == 9 else 1)

    def fitted(module: Any, *args: Any, **kwargs: Any) -> Any:
        modules.append(module)
        return quiet(module, *args, **kwargs, progress=False)

    monkeypatch.setattr(Segments, "__getitem__", poisoned)
    monkeypatch.setattr(runs, "fit", fitted)
    with pytest.raises(HemiolaError, match=r"^a loss is not finite at step 4: ") as caught:
        runs.train_codec(codec_config(checkpoint_every_steps=1, validate_every_steps=9))
    terms = str(caught.value).partition(": ")[2].split(", ")
    assert sorted(terms) == ["adversarial nan", "commitment nan", "features nan", "mel nan", "waveform nan"]
    assert line.done(tmp_path / "codec") == 4
    for name, each in modules[0].named_parameters():
        assert torch.equal(each, line.weights(tmp_path / "codec")[name]), name
