"""Without torch: in a process that cannot import it, MLX makes music from the command line, offline."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

# Nothing of what is blocked is on the way to MLX, and nobody may ask the network.
BLOCKED = """
import socket, sys
for name in ("torch", "transformers", "lightning", "scipy"):
    sys.modules[name] = None
def refuse(*_, **__):
    raise OSError("no network here")
socket.socket.connect = socket.create_connection = refuse
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code], capture_output=True, text=True, cwd=folder, env=environment
    )


def command(words: list[str], folder: Path) -> None:
    code = f"from hemiola.cli import main\ntry: main({words!r})\nexcept SystemExit as end: sys.exit(end.code)"
    done = run(code, folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", ["mlx", "auto"])
def test_generate_encode_and_decode_work(tiny: Path, tmp_path: Path, backend: str) -> None:
    chosen = ["--model", str(tiny), "--backend", backend]
    command(["generate", "bright bell", "--seconds", "0.3", "--seed", "1", "-o", "a.wav", *chosen], tmp_path)
    command(["encode", "a.wav", "-o", "a.codes", *chosen], tmp_path)
    command(["decode", "a.codes", "-o", "b.wav", *chosen], tmp_path)
    for name in ("a.wav", "b.wav"):
        samples, rate = soundfile.read(tmp_path / name, always_2d=True)
        assert (samples.shape, rate) == ((9600, 1), 32000)
        assert abs(samples).max() > 0


def test_no_framework_but_mlx_is_loaded(tiny: Path, tmp_path: Path) -> None:
    code = f"""
import hemiola
assert not {{"mlx", "mlx.core"}} & set(sys.modules)
audio = hemiola.generate("soft drums", seconds=0.1, seed=2, model={str(tiny)!r}, backend="mlx")
assert audio.samples.shape == (1, 3200)
assert "mlx.core" in sys.modules and sys.modules["torch"] is None
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_torch_is_missed_by_name(tiny: Path, tmp_path: Path) -> None:
    code = f"""
from hemiola.cli import main
main(["generate", "bells", "--model", {str(tiny)!r}, "--backend", "torch"])
"""
    done = run(code, tmp_path)
    assert done.returncode == 3
    assert "pip install 'hemiola[torch]'" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
