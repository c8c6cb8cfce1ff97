"""Moving averages of a model's weights: what a run validates and gives away, while the weights themselves learn on."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging

from hemiola.errors import InputError


class Averages(EMAWeightAveraging):
    """Lightning's moving average after each step, of parameters only: codebooks are averages already.

    In a checkpoint `state_dict` is the average, and `current_model_state` what a resumed run goes on with.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, decay=decay)

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Leave the module with the average, also where a finished run was resumed and nothing was left to train."""
        self.on_train_end(trainer, module)


def check(decay: float | None) -> None:
    """Raise InputError for a decay that averages nothing."""
    if decay is not None and not 0 < decay < 1:
        raise InputError(f"recipe.ema_decay must lie between 0 and 1, not {decay}")


def callbacks(decay: float | None) -> list[Callback]:
    """The callback for a decay; none without."""
    return [] if decay is None else [Averages(decay)]
