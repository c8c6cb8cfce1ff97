"""The command line, run in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from hemiola.cli import main


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error."""
        assert self.code != 0
        assert self.out == ""
        *notes, line = self.err.splitlines()
        assert line.startswith("error: ")
        assert all(note.startswith(("note: ", "  ")) for note in notes), self.err
        return line.removeprefix("error: ")


Hemiola = Callable[..., Ran]


@pytest.fixture
def hemiola(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Ran]:
    """Run a command in an empty folder, which is `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = capfd.readouterr()
        return Ran(int(end.value.code or 0), out, err)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Start a command as a process of its own, in `tmp_path`."""
    running = []

    def start(words: Sequence[object], **settings: object) -> subprocess.Popen:
        code = "from hemiola.cli import main; main()"
        command = [sys.executable, "-c", code, *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path, **settings}
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        running.append(subprocess.Popen(command, text=True, env=environment, **pipes))  # type: ignore[call-overload]
        return running[-1]

    yield start
    for each in running:
        each.kill()
        each.communicate()
