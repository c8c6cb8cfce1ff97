"""What a blend training is watched by: whether the windows lie where they should, and passages to hear and to see."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from hemiola.blend.network_torch import Blended
from hemiola.train import blend_report
from hemiola.train.blend import BlendTraining
from hemiola.train.latents import PairLatents
from hemiola.train.planted import evaluate_windows

# A tempo that is right is right within so much of it, as beat trackers are judged; a lag within what an ear forgives.
TEMPO_WITHIN, LAG_WITHIN_SECONDS = 0.05, 0.25
PAIRS_HEARD = 4


class Watch(Callback):
    """Looks at every validation: figures into the log, and `folder`/rows.csv, WAVs and PNGs of the first few pairs."""

    def __init__(self, valid: PairLatents, folder: Path, heard: int = PAIRS_HEARD) -> None:
        self.valid, self.folder, self.heard = valid, folder, min(heard, len(valid))
        self._start()

    def _start(self) -> None:
        self.errors: list[tuple[float, float]] = []
        self.rows: list[dict[str, Any]] = []

    def on_validation_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Forget what was seen before."""
        self._start()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """See the windows of every pair, and hear the first few."""
        assert isinstance(module, BlendTraining)
        blended: Blended = outputs["blended"]
        for place, pair in enumerate(batch["pair"].tolist()):
            self._see(blended, place, pair, module)
            if pair < self.heard:
                self._hear(trainer, module, blended, place, pair)

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Log what was found; every rank has seen the same pairs."""
        found = blend_report.means(self.rows)
        names = ("copy_input", "copy_target", "copies", "window_diversity")
        figures = {name: found[name] for name in names if name in found}
        figures |= self._accuracy()
        # The mean over ranks is what each of them has; without it Lightning warns that it might not be.
        module.log_dict({f"valid/{name}": value for name, value in figures.items()}, sync_dist=True)
        if self.rows and trainer.is_global_zero:
            blend_report.write_rows(self.folder / "rows.csv", self.rows)

    def _accuracy(self) -> dict[str, float]:
        """How far the windows of planted pairs are from showing the same music."""
        if not self.errors:
            return {}
        lags, tempi = zip(*self.errors)
        return {
            "lag_median_seconds": median(lags),
            "lag_right": sum(lag <= LAG_WITHIN_SECONDS for lag in lags) / len(lags),
            "tempo_right": sum(tempo <= TEMPO_WITHIN for tempo in tempi) / len(tempi),
        }

    def _see(self, blended: Blended, place: int, pair: int, module: BlendTraining) -> None:
        truth = self.valid.pairs[pair].truth
        if truth is None or self.valid.mode != "pairs":
            return
        frames = module.network.config.output_frames
        for window in zip(*(each[place].tolist() for each in blended.windows.parts)):
            self.errors.append(evaluate_windows(truth, *window, frames=frames, timebase=module.clock))

    def _hear(self, trainer: L.Trainer, module: BlendTraining, blended: Blended, place: int, pair: int) -> None:
        parts = (blended.output, blended.input_window, blended.target_window)
        sounds = [module.frozen.codec.synthesize(part[place]) for part in parts]
        made = blend_report.passages(blended, sounds, module.clock, place)
        name = f"pair-{pair}"
        self.rows += blend_report.rows(name, made, blended.strengths[place].tolist())
        if trainer.is_global_zero:
            blend_report.write(self.folder, name, self.valid.audio(pair), made)
