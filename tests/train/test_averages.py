"""The moving average of the weights: by hand, in what is validated and given away, and for a run that is resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import line
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from hemiola.codec.encodec_torch import Encodec
from hemiola.codec.model import EncodecModel
from hemiola.errors import InputError
from hemiola.train import averages, runs
from hemiola.train.codec import CodecRecipe
from hemiola.train.fit import fit
from hemiola.train.musicgen import MusicgenRecipe


class Averaged(line.Line):
    def __init__(self) -> None:
        super().__init__([1.0] * 8)
        self.validated: list[Tensor] = []

    def configure_callbacks(self) -> list[Callback]:
        return averages.callbacks(0.75)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.validated.append(self.line.weight.detach().clone())


class Weights(Callback):
    """The weights after each step."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        self.seen.append(module.line.weight.detach().clone())


def test_it_is_the_average_by_hand_and_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    run, module, weights = line.run(tmp_path, steps=6, validate_every_steps=2), Averaged(), Weights()
    fit(module, line.points(run), run, progress=False, callbacks=(weights,))
    by_hand = [weights.seen[0]]
    for each in weights.seen[1:]:
        by_hand.append(0.75 * by_hand[-1] + 0.25 * each)
    torch.testing.assert_close(module.validated[::2], by_hand[1::2])
    torch.testing.assert_close(module.line.weight.detach(), by_hand[-1])
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.testing.assert_close(saved["state_dict"]["line.weight"], by_hand[-1])
    assert torch.equal(saved["current_model_state"]["line.weight"], weights.seen[-1])
    # Nothing is left to train, and the average is given away all the same.
    again = Averaged()
    fit(again, line.points(run), run, resume=True, progress=False)
    assert torch.equal(again.line.weight, module.line.weight)


def test_a_codec_is_given_away_as_its_average(
    codec_config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, quiet = codec_config(steps=6), runs.fit
    config["recipe"]["ema_decay"] = 0.9
    monkeypatch.setattr(runs, "fit", lambda *args, **kwargs: quiet(*args, **kwargs, progress=False))
    folder = runs.train_codec(config)
    saved = torch.load(folder.parent / "last.ckpt", weights_only=True)
    loaded: Encodec = EncodecModel.from_pretrained(folder, backend="torch", device="cpu").network
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, saved["state_dict"][f"codec.{name}"])
        current = saved["current_model_state"][f"codec.{name}"]
        # Codebooks are averages of their own.
        assert torch.equal(saved["state_dict"][f"codec.{name}"], current) == ("codebook" in name), name


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    for recipe in (CodecRecipe, MusicgenRecipe):
        with pytest.raises(InputError, match=r"recipe\.ema_decay must lie between 0 and 1"):
            recipe(ema_decay=decay)
