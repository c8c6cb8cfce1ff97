"""Pieces of every kind, and models that write them by static steps or in the usual way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hemiola.musicgen import model as musicgen_model
from hemiola.musicgen.batch import Job
from hemiola.musicgen.config import DecoderConfig, MelodyConfig
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.sampling import Sampling
from hemiola.musicgen.session_torch import Engine

SIZES = DecoderConfig(64, 32, 2, 4, 48, initializer_factor=0.3)
KINDS = {
    "mono": SIZES,
    "stereo": replace(SIZES, num_codebooks=8, audio_channels=2),
    "melody": replace(SIZES, melody=MelodyConfig(chroma_length=7)),
}
TUNE = np.eye(12, dtype=np.float32)[np.arange(7) % 12]
PROMPT = np.random.default_rng(2).integers(64, size=(4, 6))
JOBS = [
    Job("slow piano with rain", 41, seed=1),
    Job("calm", 13, seed=2, sampling=Sampling(top_k=5)),
    Job(None, 30, seed=3, sampling=Sampling(top_k=None)),
    Job("bright drums", 17, seed=4, sampling=Sampling(guidance=1, temperature=0)),
    Job("", 9, seed=5, sampling=Sampling(guidance=7.5, top_k=None, top_p=0.7, temperature=1.4)),
    Job("calm", 26, seed=2, variation=1, negative="drums bass"),
    Job("slow bass", 70, seed=6, prompt=PROMPT, start=12),
    Job("rain", 1, seed=7),
    Job("piano in minor", 70, seed=8, prompt=PROMPT[:, :1]),
    Job("calm", 22, seed=9),
]


def loaded(folder: Path, engine: type[Engine], device: str = "cpu", dtype: str = "float32") -> MusicgenModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(musicgen_model, "engine_for", lambda config, choice: engine)
        model = MusicgenModel.from_pretrained(folder, backend="torch", device=device, dtype=dtype)
    assert type(model.engine) is engine
    return model


def fitting(kind: str, jobs: list[Job]) -> list[Job]:
    """Prompts of as many codebooks as there are, and every other piece with a tune."""
    if kind == "stereo":
        return [each if each.prompt is None else replace(each, prompt=np.tile(each.prompt, (2, 1))) for each in jobs]
    if kind == "melody":
        return [replace(each, melody=None if index % 2 else TUNE) for index, each in enumerate(jobs)]
    return jobs
