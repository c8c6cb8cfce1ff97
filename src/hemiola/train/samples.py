"""What a validation leaves to hear and to see: sounds before and after, and their spectrograms."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from hemiola.audio import io
from hemiola.errors import BackendError
from hemiola.train import spectra

WINDOW = 1024
FLOOR_DB = -90.0


class Samples(Callback):
    """Writes the first `count` items of each validation to `samples/step-...` in the run's folder.

    For a batch of audio [B, C, samples] whose validation step gives audio of that shape: a WAV each, and one PNG.
    """

    def __init__(self, sample_rate: int, count: int) -> None:
        self.sample_rate, self.count = sample_rate, count

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Raise BackendError where matplotlib is missing, before any work."""
        if find_spec("matplotlib") is None:
            raise BackendError("recipe.samples needs matplotlib: pip install 'hemiola[train]', or set it to 0")

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Tensor, batch_idx: int, *_: object
    ) -> None:
        """Write those that lie in the first batch."""
        if batch_idx or not trainer.is_global_zero:
            return
        step = trainer.fit_loop.total_batch_idx + 1
        folder = Path(trainer.default_root_dir) / "samples" / f"step-{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        pairs = zip(batch[: self.count], outputs[: self.count])
        for number, (before, after) in enumerate(pairs, 1):
            sounds = {"input": before.float().cpu().numpy(), "output": after.float().cpu().numpy()}
            for name, sound in sounds.items():
                io.write(folder / f"{number}-{name}.wav", sound, self.sample_rate, force=True)
            draw(folder / f"{number}.png", sounds, self.sample_rate)


def draw(path: Path, sounds: Mapping[str, np.ndarray], sample_rate: int) -> None:
    """Spectrograms of named sounds [C, samples] below each other, in dB of full scale, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.5 * len(sounds)), layout="constrained")
    for axes, (name, sound) in zip(figure.subplots(len(sounds), squeeze=False)[:, 0], sounds.items()):
        magnitudes = spectra.magnitudes(sound.mean(0), WINDOW, WINDOW // 4)
        levels_db = 20 * np.log10(np.maximum(magnitudes, 10 ** (FLOOR_DB / 20))).T
        extent = (0, sound.shape[1] / sample_rate, 0, sample_rate / 2000)
        axes.imshow(levels_db, origin="lower", aspect="auto", extent=extent, vmin=FLOOR_DB, vmax=0, cmap="magma")
        axes.set(title=name, ylabel="kHz")
    axes.set_xlabel("seconds")
    figure.savefig(path)
