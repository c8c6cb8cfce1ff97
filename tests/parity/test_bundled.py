"""Each bundled model on torch and on MLX: the same tokens and the same sound from the same seed, in float32.

Every model in the package is tested by itself; a checkout without any has nothing to compare.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest

import hemiola
from hemiola.codec.model import EncodecModel
from hemiola.generation import MusicGen, Result
from hemiola.musicgen.batch import Job
from hemiola.musicgen.sampling import Sampling
from hemiola.request import Request
from hemiola.synth.compose import compose

ASSETS = Path(hemiola.__file__).parent / "assets"
KINDS = {path.parent.name: json.loads(path.read_text())["model_type"] for path in sorted(ASSETS.glob("*/config.json"))}
WRITERS = [name for name, kind in KINDS.items() if kind == "musicgen"]
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


def partings(name: str, requests: list[Request]) -> list[tuple[int | None, float]]:
    """Of each piece, the first frame whose codes differ (None: none does) and the largest difference of its audio."""
    pairs = zip(*(loaded(name, backend).generate(requests) for backend in ("torch", "mlx")))
    return [parting(wanted, found) for wanted, found in pairs]


def parting(wanted: Result, found: Result) -> tuple[int | None, float]:
    assert found.codes.shape == wanted.codes.shape
    differ = (found.codes != wanted.codes).any(0)
    frame = int(differ.argmax()) if differ.any() else None
    return frame, float(np.abs(found.audio.samples - wanted.audio.samples).max())


def request(seed: int, seconds: int) -> Request:
    return Request(PROMPTS[seed % len(PROMPTS)], seconds=seconds, seed=seed)


@pytest.mark.parametrize("name", WRITERS)
def test_a_second_of_music_is_the_same(name: str) -> None:
    for seed, (frame, apart) in zip((100, 101), partings(name, [request(seed, 1) for seed in (100, 101)])):
        assert frame is None, f"seed {seed} parts at frame {frame}"
        assert apart < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_nineteen_of_twenty_seeds_write_the_same_five_seconds(name: str) -> None:
    # A draw can fall between two sums that differ in their last digits: only then may a piece go its own way.
    jobs = [job(seed, 250, loaded(name, "torch").model.recommended) for seed in range(20)]
    parted = {seed: frame for seed, each in enumerate(jobs) if (frame := parts_at(name, each)) is not None}
    assert len(parted) <= 1, f"these seeds part at these frames: {parted}"


def job(seed: int, frames: int, sampling: Sampling) -> Job:
    return Job(PROMPTS[seed % len(PROMPTS)], frames, seed, sampling=sampling)


def parts_at(name: str, wanted: Job) -> int | None:
    """The first frame whose tokens differ."""
    first, second = (
        np.concatenate([rows for (rows,) in loaded(name, backend).model.tokens([wanted])], axis=-1)
        for backend in ("torch", "mlx")
    )
    assert first.shape == second.shape == (4, wanted.frames)
    differ = (first != second).any(0)
    return int(differ.argmax()) if differ.any() else None


@pytest.mark.parametrize("name", KINDS)
def test_encoding_and_decoding_are_the_same(name: str) -> None:
    on_torch, on_mlx = (EncodecModel.from_pretrained(name, backend=each, device="cpu") for each in ("torch", "mlx"))
    music = compose(7, seconds=1, sample_rate=on_torch.sampling_rate).audio
    audio = np.stack([music, music[:, ::-1]])[..., :12345]
    wanted, found = on_torch.encode(audio), on_mlx.encode(audio)
    assert np.mean(found.chunks[0] == wanted.chunks[0]) >= 0.999
    latents = on_torch.latents(audio)
    assert np.abs(on_mlx.latents(audio) - latents).max() < 1e-4 * np.abs(latents).max()
    assert np.abs(on_mlx.decode(wanted) - on_torch.decode(wanted)).max() < 1e-4
