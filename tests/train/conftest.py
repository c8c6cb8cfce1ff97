"""Tiny clips, codecs and language models, that train in a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

RATE = 2000

# Models this small lose more by sharing the work than they gain.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and valid/ with up to 0.6 s of noisy tones and captions; to be read, never changed."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("valid", 2)):
        (folder / split).mkdir()
        rows = []
        for number in range(count):
            hz, length = 100 + 40 * number, 1200 - 150 * number
            tone = np.sin(2 * np.pi * hz * np.arange(length) / RATE) + 0.3 * rng.standard_normal(length)
            soundfile.write(folder / split / f"{number}.wav", 0.2 * tone.astype(np.float32), RATE, subtype="FLOAT")
            rows.append(json.dumps({"file": f"{number}.wav", "caption": f"a tone in c# minor, {hz} bpm"}))
        (folder / split / "captions.jsonl").write_text("\n".join(rows), "utf-8")
    return folder


@pytest.fixture
def codec_config(clip_folder: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A run config that trains a codec with all its losses; keyword arguments go to the run."""

    def config(**run: Any) -> dict[str, Any]:
        return {
            "run": _run(tmp_path / "codec", **run),
            "data": {"folder": str(clip_folder), "segment_seconds": 0.1},
            "model": {
                "sampling_rate": RATE,
                "upsampling_ratios": [4, 2],
                "num_filters": 2,
                "hidden_size": 4,
                "codebook_size": 8,
                "num_lstm_layers": 1,
                "target_bandwidths": [0.75, 1.5],
                "use_causal_conv": False,
                "use_conv_shortcut": False,
            },
            "recipe": {
                "mel_windows": [64, 128],
                "discriminator_windows": [64],
                "discriminator_filters": 2,
                "quantiser_warmup_steps": 4,
                "adversarial_from": 3,
                "warmup_steps": 2,
                "samples": 0,
            },
        }

    return config


@pytest.fixture
def musicgen_config(clip_folder: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A run config that trains a language model on an untrained codec's tokens."""
    # Only the tests that ask for a codec pay for its import.
    from hemiola.codec.config import EncodecConfig
    from hemiola.codec.encodec_torch import Encodec, save
    from hemiola.train.codec import initialise

    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"hidden_size": 4, "num_filters": 2, "upsampling_ratios": (4, 2), "num_lstm_layers": 1}
        codec = Encodec(EncodecConfig(target_bandwidths=(1.5,), sampling_rate=RATE, codebook_size=8, **shape))
        initialise(codec)
        save(codec, tmp_path / "frozen")

    def config(**run: Any) -> dict[str, Any]:
        return {
            "run": _run(tmp_path / "musicgen", **run),
            "data": {"folder": str(clip_folder), "segment_seconds": 0.5},
            "codec": {"path": str(tmp_path / "frozen")},
            "text": {"words": 20, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2},
            "model": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "ffn_dim": 16,
                "num_codebooks": 2,
            },
            "recipe": {"warmup_steps": 2, "learning_rate": 0.01, "words_unknown": 0.2, "numbers_moved": 0.1},
        }

    return config


BLEND_RATE, BLEND_HOP, BLEND_FRAMES = 4000, 80, 240


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs of 4.8 s to train and to validate with, whose targets hold 3 s of the input; to be read only."""
    from hemiola.audio import io
    from hemiola.train import pairs
    from hemiola.train.pairs import Cut, Pair, Stretch

    folder, rng = tmp_path_factory.mktemp("paired") / "pairs", np.random.default_rng(1)
    length = BLEND_FRAMES * BLEND_HOP
    pairs.prepare(folder, {"made": "here", "clip_seconds": 4.8, "sample_rate": BLEND_RATE})
    cuts, made = [], []
    for number in range(6):
        split = "train" if number < 3 else "valid"
        loudness = 0.02 + np.abs(rng.standard_normal((2, BLEND_FRAMES // 8)).repeat(8 * BLEND_HOP, 1))
        sounds = 0.1 * loudness * rng.standard_normal((2, length))
        # From 1 s on in the input, from 0.5 s on in the target.
        sounds[1, 2000:14_000] = sounds[0, 4000:16_000]
        names = [f"{split}-{number}-{role}" for role in ("input", "target")]
        for name, sound in zip(names, sounds):
            io.write(pairs.clip_path(folder, name), sound[None].astype(np.float32), BLEND_RATE)
            cuts.append(Cut(name, name, split, "", 0, length, BLEND_RATE))
        made.append(Pair(split, *names, Stretch(1.0, 1.0, 0.5, 3.0)))
    pairs.write(folder, cuts, made)
    return folder


@pytest.fixture(scope="session")
def blend_codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained codec of 50 frames a second; to be read only."""
    from hemiola.codec.config import EncodecConfig
    from hemiola.codec.encodec_torch import Encodec, save
    from hemiola.train.codec import initialise

    with torch.random.fork_rng():
        torch.manual_seed(2)
        shape = {"hidden_size": 4, "num_filters": 2, "upsampling_ratios": (8, 5, 2), "num_lstm_layers": 1}
        codec = Encodec(EncodecConfig(target_bandwidths=(0.15,), sampling_rate=BLEND_RATE, codebook_size=8, **shape))
        initialise(codec)
        folder = tmp_path_factory.mktemp("codec") / "frozen"
        save(codec, folder)
    return folder


@pytest.fixture
def blend_config(pair_folder: Path, blend_codec: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A run config that trains a blend with all its losses, a quarter of a second decoded of each window."""

    def config(**run: Any) -> dict[str, Any]:
        return {
            "run": _run(tmp_path / "blend", **run),
            "data": {"folder": str(pair_folder)},
            "codec": {"path": str(blend_codec)},
            "model": {"size": "tiny", "output_frames": 32, "embedding_dim": 6},
            "recipe": {"decode_seconds": 0.25},
        }

    return config


def _run(usual_folder: Path, **settings: Any) -> dict[str, Any]:
    usual = {"steps": 9, "batch": 2, "validate_every_steps": 3, "checkpoint_every_steps": 2, "log_every_steps": 1}
    return {"folder": str(usual_folder), "accelerator": "cpu", **usual, **settings}
