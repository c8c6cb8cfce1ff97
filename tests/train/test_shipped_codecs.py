"""The codec configs that are shipped: each trains, with small sizes, on a plain folder of audio of another rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from hemiola.codec.model import EncodecModel
from hemiola.train import config as configs
from hemiola.train import runs

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = (
    "run.steps=2",
    "run.batch=2",
    "run.accelerator=cpu",
    "run.devices=1",
    "run.workers=0",
    "run.validate_every_steps=2",
    "run.log_every_steps=1",
    "data.segment_seconds=0.1",
    "model.num_filters=2",
    "model.hidden_size=4",
    "model.num_lstm_layers=1",
    "model.codebook_size=16",
    "recipe.discriminator_windows=[256, 128]",
    "recipe.discriminator_filters=2",
    "recipe.quantiser_warmup_steps=1",
    "recipe.samples=1",
)


@pytest.mark.parametrize(
    ("kind", "channels", "bandwidths"), [("24khz", 1, "[0.6, 1.2]"), ("32khz", 1, "[0.8]"), ("48khz", 2, "[1.2, 2.4]")]
)
def test_it_trains_and_what_it_writes_codes(
    kind: str, channels: int, bandwidths: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for number, sides in enumerate((1, 2, 1)):
        soundfile.write(tmp_path / f"{number}.flac", 0.1 * rng.standard_normal((4410, sides)), 22050)
    places = (f"run.folder={tmp_path / 'run'}", f"data.folder={tmp_path}", f"model.target_bandwidths={bandwidths}")
    config = configs.read(CONFIGS / f"codec-{kind}.yaml", [*SMALL, *places])
    quiet = runs.fit
    monkeypatch.setattr(runs, "fit", lambda *args, **kwargs: quiet(*args, **kwargs, progress=False))
    codec = EncodecModel.from_pretrained(runs.train_codec(config), backend="torch", device="cpu")
    assert (codec.sampling_rate, codec.channels) == (int(kind[:2]) * 1000, channels)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"best.ckpt", "last.ckpt", "samples", "metrics.csv"}
    audio = rng.standard_normal((channels, codec.sampling_rate // 7)).astype(np.float32)
    assert codec.decode(codec.encode(audio)).shape == audio.shape
