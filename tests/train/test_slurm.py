"""runs/slurm.sbatch with SLURM's commands played by small scripts: two processes, a time limit, a requeue, an end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import line
import pytest

SCRIPT = Path(__file__).parents[2] / "runs" / "slurm.sbatch"
COMMANDS = {
    "scontrol": '[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> "$DESK/requeued"',
    "srun": 'shift; echo $$ > "$DESK/step"; exec "$@"',
    "scancel": 'echo "$@" > "$DESK/cancelled"; kill -TERM "$(cat "$DESK/step")"',
}


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Start the script as SLURM would, with two processes on this one node."""
    for name, body in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here"}
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **slurm, "PROCESSES_PER_NODE": "2", "DESK": str(tmp_path), "PATH": path}

    def run(*words: str) -> subprocess.Popen:
        with (tmp_path / "out").open("w") as out:
            return subprocess.Popen(["bash", SCRIPT, *words], env=environment, stdout=out)

    return run


def test_it_says_what_it_wants(start: Callable[..., subprocess.Popen]) -> None:
    assert start("codec").wait() == 2


@pytest.mark.slow
def test_a_job_is_requeued_until_it_is_done(
    start: Callable[..., subprocess.Popen], codec_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config, folder = tmp_path / "run.yaml", tmp_path / "codec"
    never = {"steps": 10**6, "validate_every_steps": 10**6, "checkpoint_every_steps": 10**6}
    config.write_text(json.dumps(codec_config(**never)))
    job = start("codec", "--config", str(config))
    while job.poll() is None and not (folder / "metrics.csv").exists():
        time.sleep(0.2)
    job.send_signal(signal.SIGUSR1)
    assert job.wait() != 0
    assert (tmp_path / "cancelled").read_text() == "--signal=TERM 4711\n"
    assert (tmp_path / "requeued").read_text() == "requeue 4711\n"

    reached = line.done(folder)
    assert 0 < reached < 10**6
    job = start("codec", "--config", str(config), f"run.steps={reached + 2}", "run.validate_every_steps=1")
    assert job.wait() == 0
    assert (tmp_path / "out").read_text() == f"{folder / 'checkpoint'}\n"
    assert line.done(folder) == reached + 2
    assert (tmp_path / "requeued").read_text() == "requeue 4711\n"
    # A run that fails is not queued again.
    assert start("codec", "--config", str(config), "run.steps=0").wait() != 0
    assert (tmp_path / "requeued").read_text() == "requeue 4711\n"
