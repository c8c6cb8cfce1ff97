"""What `hemiola train blend` runs: from a config's sections to pairs, latents, module and an exported checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from hemiola.backend import choose
from hemiola.blend.config import BlendConfig
from hemiola.blend.network_torch import BlendNetwork
from hemiola.codec.encodec_torch import Encodec
from hemiola.codec.fingerprint_torch import fingerprint
from hemiola.errors import InputError
from hemiola.train import config as configs
from hemiola.train import pairs, planted
from hemiola.train.blend import BlendRecipe, BlendTraining
from hemiola.train.blend_watch import Watch
from hemiola.train.data import StepData
from hemiola.train.fit import Run, check_folder, fit
from hemiola.train.latents import LatentCache, PairLatents
from hemiola.train.planted import Planted
from hemiola.train.runs import Progress, TrainedCodec, device_of, trained_codec

# Clips from which mean and spread of the latents are taken: enough that more would not move them.
CLIPS_MEASURED = 128


@dataclass(frozen=True)
class PairData:
    """Where the pairs are: a dataset of `hemiola pairs`, or one that is composed first where `synthetic` says so.

    `mode` is "pairs"; "unity", where the target is the input; or "shuffle_targets".
    """

    folder: str
    synthetic: Mapping[str, Any] | None = None
    mode: str = "pairs"


@dataclass(frozen=True)
class Parts:
    """All that a blend training consists of, ready to run."""

    module: BlendTraining
    train: PairLatents
    valid: PairLatents
    run: Run


def train_blend(config: Mapping[str, Any], *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Train a blend and write it to `run.folder`/checkpoint."""
    # First: a folder that is taken is told before anything is composed.
    check_folder(configs.build(Run, config.get("run"), "run"), resume)
    parts = assemble(config, progress=progress)
    run, folder = parts.run, Path(parts.run.folder) / "checkpoint"
    feed = StepData(parts.train, parts.valid, steps=run.steps, batch=run.batch, workers=run.workers)
    watch = Watch(parts.valid, Path(run.folder) / "validation")
    trainer = fit(parts.module, feed, run, resume=resume, callbacks=(watch,))
    if trainer.is_global_zero:
        parts.module.export(folder)
    return folder


def assemble(config: Mapping[str, Any], *, progress: Progress | None = None) -> Parts:
    """Pairs, latents, network and losses as the config's sections say; raises InputError for what cannot be had."""
    run_values, data_values, codec_values, model_values, recipe_values = configs.sections(
        config, "run", "data", "codec", "model", "recipe"
    )
    run = configs.build(Run, run_values, "run")
    if run.accumulate > 1:
        raise InputError("run.accumulate must be 1 for a blend, whose decoder takes a few rows at a time anyway")
    data = configs.build(PairData, data_values, "data")
    recipe = configs.build(BlendRecipe, {"seed": run.seed, **recipe_values}, "recipe")
    wanted = configs.build(TrainedCodec, codec_values, "codec")
    codec = trained_codec(wanted, choose("torch", device_of(run))).eval().requires_grad_(False)
    dataset = _dataset(data, progress)
    latents = LatentCache(dataset, codec).build(partial(progress, "latents") if progress else None)
    L.seed_everything(run.seed, verbose=False)
    shape = {
        "codec": wanted.path,
        "codec_weights": fingerprint(codec),
        "latent_dim": codec.config.hidden_size,
        "clip_frames": _clip_frames(dataset, codec),
    }
    network = BlendNetwork(configs.build(BlendConfig, {**shape, **model_values}, "model"))
    center = codec.config.timebase if recipe.reference == "center" else None
    given = partial(PairLatents, dataset, latents=latents, frames=network.config.output_frames, mode=data.mode)
    train, valid = given("train", seed=run.seed, center=center), given("valid", center=center)
    network.fit_latents(*_spread(train))
    return Parts(BlendTraining(network, codec, recipe), train, valid, run)


def _dataset(data: PairData, progress: Progress | None) -> pairs.PairFolder:
    if data.synthetic is None:
        return pairs.read(data.folder)
    wanted = configs.build(Planted, data.synthetic, "data.synthetic")
    told = partial(progress, "composing") if progress else None
    return planted.fill(Path(data.folder), wanted, workers=2, progress=told)


def _clip_frames(dataset: pairs.PairFolder, codec: Encodec) -> int:
    clock = codec.config.timebase
    return clock.frames(clock.samples(dataset.settings["clip_seconds"]))


def _spread(train: PairLatents) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [D] of the first training clips' latents."""
    count = min(len(train), CLIPS_MEASURED // 2)
    items = (train[index] for index in range(count))
    clips = torch.cat([torch.as_tensor(item[name]).double() for item in items for name in ("input", "target")], 1)
    return clips.mean(1).float(), clips.std(1).float()
