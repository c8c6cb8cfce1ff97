"""What a validation leaves to hear and to see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from hemiola.codec.model import EncodecModel
from hemiola.errors import BackendError
from hemiola.timebase import Timebase
from hemiola.train import runs, samples
from hemiola.train.data import Segments, clips
from hemiola.train.samples import draw


def test_a_validation_writes_sounds_and_pictures(
    codec_config: Callable[..., dict[str, Any]], clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, quiet = codec_config(steps=4, validate_every_steps=2), runs.fit
    config["recipe"] |= {"samples": 2, "quantiser_warmup_steps": 1}
    monkeypatch.setattr(runs, "fit", lambda *args, **kwargs: quiet(*args, **kwargs, progress=False))
    checkpoint = runs.train_codec(config)
    folders = sorted((tmp_path / "codec" / "samples").iterdir())
    assert [folder.name for folder in folders] == ["step-000002", "step-000004"]
    names = {f"{number}{what}" for number in (1, 2) for what in ("-input.wav", "-output.wav", ".png")}
    assert {path.name for path in folders[0].iterdir()} == names

    valid = Segments(clips(clip_folder / "valid"), Timebase(2000, 1), "0.1", 1, seed=1)
    codec = EncodecModel.from_pretrained(checkpoint, backend="torch", device="cpu")
    for number in (0, 1):
        heard, rate = soundfile.read(folders[1] / f"{number + 1}-input.wav", dtype="float32")
        assert rate == 2000
        np.testing.assert_allclose(heard, valid[number][0].numpy(), atol=1e-6)
        output, _ = soundfile.read(folders[1] / f"{number + 1}-output.wav", dtype="float32")
        np.testing.assert_allclose(output, codec.decode(codec.encode(heard[None]))[0], atol=1e-4)


def test_what_is_missing_is_named_before_any_work(
    codec_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = codec_config()
    config["recipe"]["samples"] = 1
    monkeypatch.setattr(samples, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"recipe\.samples needs matplotlib: pip install 'hemiola\[train\]'"):
        runs.train_codec(config)
    assert not (tmp_path / "codec" / "last.ckpt").exists()


def test_a_picture_shows_where_the_sound_is(tmp_path: Path) -> None:
    """A tone at a quarter of the band: one bright row there in the first picture, none in the second, of silence."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000).astype(np.float32)[None]
    draw(tmp_path / "a.png", {"tone": tone, "silence": 0 * tone}, 8000)
    light = imread(tmp_path / "a.png")[..., :3].sum(-1)
    half = len(light) // 2
    columns = slice(light.shape[1] // 5, light.shape[1] // 3)

    def inside(rows: np.ndarray) -> np.ndarray:
        """How light the rows between the white margins are, in columns that hold no title."""
        level = rows[:, columns].mean(1)
        dark = np.flatnonzero(level < 1.5)
        return level[dark[0] + 3 : dark[-1] - 3]

    shown = inside(light[:half])
    brightest = 1 - shown.argmax() / len(shown)
    assert brightest == pytest.approx(0.25, abs=0.03)
    assert shown.max() > 1 > 5 * inside(light[half : -half // 5]).max()
