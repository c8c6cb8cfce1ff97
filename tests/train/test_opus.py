"""Opus as a yardstick: as long as before, at its lowest rate, and much like what went in."""

from __future__ import annotations

import numpy as np
import pytest

from hemiola.errors import BackendError
from hemiola.synth.compose import compose
from hemiola.train import opus

pytestmark = pytest.mark.skipif(not opus.available(), reason="this libsndfile has no Opus")


@pytest.mark.parametrize(("rate", "seconds"), [(32000, "2"), (24000, "1.00001"), (48000, "0.5")])
@pytest.mark.parametrize("channels", [1, 2])
def test_audio_comes_back_as_long_as_before_and_in_step(rate: int, seconds: str, channels: int) -> None:
    audio = compose(7, seconds=seconds, sample_rate=rate, channels=channels).audio
    back, kilobits = opus.through_opus(audio, rate)
    assert back.shape == audio.shape and back.dtype == np.float32
    assert 2 < kilobits / float(seconds) / channels < 30
    # A delay of a few milliseconds would undo this.
    assert np.corrcoef(back.ravel(), audio.ravel())[0, 1] > 0.6


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opus.soundfile, "available_subtypes", lambda container: {"VORBIS": "Vorbis"})
    with pytest.raises(BackendError, match="soundfile"):
        opus.through_opus(np.zeros((1, 100), np.float32), 32000)
