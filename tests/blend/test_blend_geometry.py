"""One clock from end to end, through the bundled codec: how many frames and samples, and clicks that keep time."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from hemiola.audio.audio import Audio
from hemiola.blend.config import BlendConfig
from hemiola.blend.model import Blend
from hemiola.blend.network_torch import BlendNetwork
from hemiola.blend.selector_torch import Windows
from hemiola.codec.model import EncodecModel

RATE, HOP, CLIP, OUTPUT = 24_000, 320, 576_000, 256_000
PERIOD = 12_000  # samples between two clicks
COLUMN = 40  # samples in which the loudest is looked for: an eighth of a frame

pytestmark = pytest.mark.slow


@cache
def blend() -> Blend:
    """What has learned nothing: both windows' mix."""
    codec = EncodecModel.from_pretrained("sketch-24khz", backend="torch", device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BlendConfig(codec="sketch-24khz", size="tiny")
        return Blend(config, BlendNetwork(config).eval(), codec)


def clicks() -> np.ndarray:
    """24 s of single samples, [1, samples]."""
    sound = np.zeros((1, CLIP), np.float32)
    sound[0, PERIOD // 2 :: PERIOD] = 0.9
    return sound


def period(sound: np.ndarray, expected: float) -> float:
    """Samples after which the clicks of a sound come again, looked for from 0.6 to 1.6 times what is expected."""
    loudest = np.abs(sound[: len(sound) // COLUMN * COLUMN]).reshape(-1, COLUMN).max(1)
    loudest = loudest - loudest.mean()
    alike = np.correlate(loudest, loudest, "full")[len(loudest) - 1 :]
    first, last = (int(expected * share / COLUMN) for share in (0.6, 1.6))
    place = first + int(np.argmax(alike[first:last]))
    # Where clicks are read past at a higher tempo, not all of them are as loud.
    assert alike[place] > 0.2 * alike[0]
    return place * COLUMN


def test_three_passages_of_256000_samples_that_keep_the_period() -> None:
    sound = Audio(clicks(), RATE)
    assert blend().codec.latents(sound.samples[None]).shape == (1, 128, 1800)
    assert (blend().clip_samples, blend().output_samples) == (CLIP, OUTPUT)
    made = blend().render(sound, sound)
    assert len(made.passages) == 3
    for passage in made.passages:
        assert passage.output.shape == passage.input_window.shape == passage.target_window.shape == (1, OUTPUT)
        assert passage.components.shape == (6, 800)
        assert passage.input.ratio == passage.target.ratio == 1
        assert passage.input.end_seconds - passage.input.start_seconds == pytest.approx(OUTPUT / RATE, abs=1e-4)
        assert abs(period(passage.output[0], PERIOD) - PERIOD) <= COLUMN
        # A click every 37.5 frames, and nothing else as loud, but for the onset of all sound.
        envelope = np.abs(passage.output[0]).reshape(-1, HOP).max(1)
        loud = np.flatnonzero(envelope > 0.5 * envelope.max())
        assert len(loud) >= 21
        assert set(np.diff(loud[loud > 1])) == {37, 38}


@pytest.mark.parametrize("ratio", [1.0, 1.25, 0.8, 1.5, 2 / 3])
def test_the_period_divides_by_the_ratio(ratio: float) -> None:
    network, codec = blend().network, blend().codec
    latents = torch.from_numpy(codec.latents(clicks()[None]))
    starts, ratios = torch.tensor([[300.0]]), torch.tensor([[ratio]])
    with torch.no_grad():
        blended = network.compose(latents, latents, Windows(starts, ratios, starts, ratios))
        sound = codec.network.synthesize(blended.output[0])[0, 0].numpy()
    assert sound.shape == (OUTPUT,)
    assert abs(period(sound, PERIOD / ratio) - PERIOD / ratio) <= HOP
