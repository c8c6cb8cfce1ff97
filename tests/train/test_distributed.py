"""Two processes that share a global batch train what one process trains with all of it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import line
import pytest
import torch

from hemiola.errors import HemiolaError
from hemiola.train import blend_runs, runs
from hemiola.train.blend import BlendTraining
from hemiola.train.blend_watch import Watch
from hemiola.train.codec import CodecTraining
from hemiola.train.fit import fit
from hemiola.train.musicgen import MusicgenTraining

Config = dict[str, Any]


KINDS = {"codec": runs.train_codec, "musicgen": runs.train_musicgen, "blend": blend_runs.train_blend}
MODULES = {"codec": CodecTraining, "musicgen": MusicgenTraining, "blend": BlendTraining}

EARLY = {"monitor": "valid/loss", "patience": 1, "validate_every_steps": 2}
RATES = ("learning_rate", "selector_learning_rate", "discriminator_learning_rate")


def train(configs: list[tuple[str, Config]], resume: bool = False) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (runs, blend_runs):
            patch.setattr(module, "fit", partial(fit, progress=False))
        patch.setattr(blend_runs, "Watch", partial(Watch, heard=0))
        for kind, config in configs:
            KINDS[kind](config, resume=resume)


def connect(rank: int, port: int) -> None:
    """Tell a process what a launcher would."""
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def run_rank(rank: int, port: int, configs: list[tuple[str, Config]]) -> None:
    connect(rank, port)
    train(configs)
    torch.distributed.destroy_process_group()


def run_until_killed(rank: int, port: int, kind: str, config: Config, step: int) -> None:
    """Die in the middle of a step, with nothing saved on the way out."""
    connect(rank, port)
    usual = MODULES[kind].training_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        if batch_idx == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(self, batch, batch_idx)

    MODULES[kind].training_step = training_step
    train([(kind, config)])


def run_again(rank: int, port: int, kind: str, config: Config, whole: Config) -> None:
    connect(rank, port)
    train([(kind, config)], resume=True)
    train([(kind, whole)])
    torch.distributed.destroy_process_group()


def run_lines(rank: int, port: int, folder: Path) -> None:
    """One run that ends early though only rank 1 sees no progress; one whose item for rank 1 is not finite."""
    connect(rank, port)
    scores = [5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0]
    early = line.run(folder / "early", devices=2, monitor="valid/score", patience=2)
    module = line.Line(scores if rank == 0 else scores[::-1])
    fit(module, line.points(early), early, progress=False)
    torch.save(module.state_dict(), folder / f"early-{rank}.pt")
    broken = line.run(folder / "broken", devices=2, checkpoint_every_steps=1)
    module = line.Line(scores, manual=True)
    with pytest.raises(HemiolaError, match=r"a loss is not finite at step 3: loss nan, size 1\."):
        fit(module, line.points(broken, poisoned=[7]), broken, progress=False)
    torch.save(module.state_dict(), folder / f"broken-{rank}.pt")
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def parameters(config: Config) -> dict[str, torch.Tensor]:
    saved = torch.load(Path(config["run"]["folder"]) / "last.ckpt", weights_only=True)
    averages = {f"average of {name}": tensor for name, tensor in saved["state_dict"].items()}
    return {name: each.float() for name, each in (averages | saved.get("current_model_state", {})).items()}


@pytest.mark.slow
def test_two_processes_train_what_one_does(
    codec_config: Callable[..., Config],
    musicgen_config: Callable[..., Config],
    blend_config: Callable[..., Config],
    tmp_path: Path,
) -> None:
    def all_kinds(name: str, devices: int) -> list[tuple[str, Config]]:
        settings = {"devices": devices, "batch": 4, "steps": 20, "validate_every_steps": 10, "accumulate": 2}
        codec = codec_config(folder=str(tmp_path / name / "codec"), **settings)
        codec["recipe"] |= {"commitment": 5.0}  # as strong as the balanced losses, or its share would not show
        model = musicgen_config(folder=str(tmp_path / name / "musicgen"), **settings)
        for config in (codec, model):
            config["recipe"]["ema_decay"] = 0.9
        blend = blend_config(folder=str(tmp_path / name / "blend"), devices=devices, batch=4, steps=8)
        # Adam makes steps of one size out of gradients that differ by rounding: eight of these are far more than 1e-5.
        blend["recipe"] |= dict(zip(RATES, (1e-5, 5e-4, 1e-5)))
        # One that cannot become better, and so ends before its time, on all ranks or never.
        early = blend_config(folder=str(tmp_path / name / "early"), devices=devices, steps=8, **EARLY)
        early["recipe"] |= dict.fromkeys(RATES, 1e-30)
        return [("codec", codec), ("musicgen", model), ("blend", blend), ("blend", early)]

    alone, shared = all_kinds("alone", 1), all_kinds("shared", 2)
    train(alone)
    torch.multiprocessing.spawn(run_rank, (free_port(), shared), nprocs=2)
    far = {}
    for (kind, one), (_, two) in zip(alone, shared, strict=True):
        expected, found = parameters(one), parameters(two)
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            # As long as the hinge sees all logits, real and fake ones cancel in it, and its gradient is rounding alone.
            if kind == "blend" and name.endswith("discriminator.head.bias"):
                continue
            if not torch.allclose(found[name], tensor, rtol=1e-5, atol=1e-5):
                far[f"{kind}: {name}"] = (found[name] - tensor).abs().max().item()
        assert line.done(Path(two["run"]["folder"])) == line.done(Path(one["run"]["folder"]))
        assert (Path(two["run"]["folder"]) / "checkpoint" / "model.safetensors").is_file()
    assert not far
    assert line.done(tmp_path / "shared" / "early") == 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["codec", "musicgen", "blend"])
def test_a_killed_run_of_two_processes_is_resumed_exactly(
    kind: str,
    codec_config: Callable[..., Config],
    musicgen_config: Callable[..., Config],
    blend_config: Callable[..., Config],
    tmp_path: Path,
) -> None:
    make = {"codec": codec_config, "musicgen": musicgen_config, "blend": blend_config}[kind]
    parts, whole = (make(folder=str(tmp_path / name), devices=2, steps=8) for name in ("parts", "whole"))
    with pytest.raises(torch.multiprocessing.ProcessExitedException, match="SIGKILL"):
        torch.multiprocessing.spawn(run_until_killed, (free_port(), kind, parts, 5), nprocs=2)
    assert line.done(tmp_path / "parts") == 4
    torch.multiprocessing.spawn(run_again, (free_port(), kind, parts, whole), nprocs=2)
    expected, found = parameters(whole), parameters(parts)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
def test_what_ends_one_process_ends_both(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_lines, (free_port(), tmp_path), nprocs=2)
    for name, steps in (("early", 3), ("broken", 3)):
        assert line.done(tmp_path / name) == steps
        kept = line.weights(tmp_path / name)
        for rank in (0, 1):
            left = torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True)
            assert all(torch.equal(kept[key], each) for key, each in left.items())
