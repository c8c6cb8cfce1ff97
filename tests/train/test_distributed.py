"""Two processes that share a global batch train what one process trains with all of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hemiola.train import runs

Config = dict[str, Any]


def train(configs: list[tuple[str, Config]]) -> None:
    usual = runs.fit
    try:
        runs.fit = lambda *args, **kwargs: usual(*args, **kwargs, progress=False)
        for kind, config in configs:
            {"codec": runs.train_codec, "musicgen": runs.train_musicgen}[kind](config)
    finally:
        runs.fit = usual


def run_rank(rank: int, port: int, configs: list[tuple[str, Config]]) -> None:
    torch.set_num_threads(1)
    # What a launcher tells its processes.
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train(configs)
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def parameters(config: Config) -> dict[str, torch.Tensor]:
    saved = torch.load(Path(config["run"]["folder"]) / "last.ckpt", weights_only=True)["state_dict"]
    return {name: tensor.float() for name, tensor in saved.items()}


@pytest.mark.slow
def test_two_processes_train_what_one_does(
    codec_config: Callable[..., Config], musicgen_config: Callable[..., Config], tmp_path: Path
) -> None:
    def both(name: str, devices: int) -> list[tuple[str, Config]]:
        settings = {"devices": devices, "batch": 4, "steps": 8, "validate_every_steps": 4}
        codec = codec_config(folder=str(tmp_path / name / "codec"), **settings)
        codec["recipe"]["commitment"] = 5.0  # as strong as the balanced losses, or its share would not show
        return [("codec", codec), ("musicgen", musicgen_config(folder=str(tmp_path / name / "musicgen"), **settings))]

    alone, shared = both("alone", 1), both("shared", 2)
    train(alone)
    torch.multiprocessing.spawn(run_rank, (free_port(), shared), nprocs=2)
    far = {}
    for (kind, one), (_, two) in zip(alone, shared, strict=True):
        expected, found = parameters(one), parameters(two)
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            if not torch.allclose(found[name], tensor, rtol=1e-5, atol=1e-5):
                far[f"{kind}: {name}"] = (found[name] - tensor).abs().max().item()
        assert (Path(two["run"]["folder"]) / "checkpoint" / "model.safetensors").is_file()
    assert not far
