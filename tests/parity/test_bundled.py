"""Each bundled model on torch and on MLX: the same tokens and the same sound from the same seed, in float32.

Every model in the package is tested by itself; a checkout without any has nothing to compare.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

import hemiola
from hemiola.generation import MusicGen
from hemiola.request import Request

ASSETS = Path(hemiola.__file__).parent / "assets"
BUNDLED = sorted(path.parent.name for path in ASSETS.glob("*/config.json"))
PROMPTS = (
    "slow piano in a minor with soft drums",
    "a bright bell melody, 140 bpm",
    "fast organ without drums",
    "calm flute and a warm bass",
    None,
)


@functools.cache
def loaded(name: str, backend: str) -> MusicGen:
    return MusicGen.from_pretrained(name, backend=backend, device="cpu")


def parting(name: str, request: Request) -> tuple[int | None, float]:
    """The first frame whose codes differ (None: none does), and the largest difference of the audio if none does."""
    (wanted,), (found,) = (loaded(name, backend).generate([request]) for backend in ("torch", "mlx"))
    assert found.codes.shape == wanted.codes.shape
    differ = (found.codes != wanted.codes).any(0)
    if differ.any():
        return int(differ.argmax()), float("nan")
    return None, float(np.abs(found.audio.samples - wanted.audio.samples).max())


def request(seed: int, seconds: int) -> Request:
    return Request(PROMPTS[seed % len(PROMPTS)], seconds=seconds, seed=seed)


@pytest.mark.parametrize("name", BUNDLED)
def test_a_second_of_music_is_the_same(name: str) -> None:
    for seed in (100, 101):
        frame, apart = parting(name, request(seed, 1))
        assert frame is None, f"seed {seed} parts at frame {frame}"
        assert apart < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_nineteen_of_twenty_seeds_write_the_same_five_seconds(name: str) -> None:
    # A draw can fall between two sums that differ in their last digits: only then may a piece go its own way.
    found = {seed: parting(name, request(seed, 5)) for seed in range(20)}
    parted = {seed: frame for seed, (frame, _) in found.items() if frame is not None}
    assert len(parted) <= 1, f"these seeds part at these frames: {parted}"
    assert max(apart for frame, apart in found.values() if frame is None) < 1e-4


@pytest.mark.parametrize("name", BUNDLED)
def test_encoding_and_decoding_are_the_same(name: str) -> None:
    on_torch, on_mlx = (loaded(name, backend).model.codec for backend in ("torch", "mlx"))
    (music,) = loaded(name, "torch").generate([request(7, 1)])
    audio = np.stack([music.audio.samples, music.audio.samples[:, ::-1]])[..., :12345]
    wanted, found = on_torch.encode(audio), on_mlx.encode(audio)
    assert np.mean(found.chunks[0] == wanted.chunks[0]) >= 0.999
    assert np.abs(on_mlx.latents(audio) - on_torch.latents(audio)).max() < 1e-4
    assert np.abs(on_mlx.decode(wanted) - on_torch.decode(wanted)).max() < 1e-4
