"""The picture of a sound: of any length, any channels and any name there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemiola.audio import picture
from hemiola.audio.overview import glance


def tone(seconds: float, channels: int, rate: int) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * 440 * times)] * channels).astype(np.float32)


@pytest.mark.parametrize(
    ("seconds", "channels", "rate"), [(1 / 8000, 1, 8000), (0.02, 9, 48000), (130, 2, 8000), (7300, 1, 40)]
)
def test_any_length_and_any_channels_can_be_drawn(tmp_path: Path, seconds: float, channels: int, rate: int) -> None:
    overview = glance(tone(seconds, channels, rate), rate)
    picture.draw(overview, tmp_path / "x.png", "a $b$ 名 \udcff.wav" * 9, "facts")
    with Image.open(tmp_path / "x.png") as image:
        assert np.asarray(image.convert("RGB")).std() > 10
