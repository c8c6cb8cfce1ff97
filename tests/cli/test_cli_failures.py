"""What happens when things go wrong outside: Ctrl-C, a full disk, a reader that leaves, an error nobody thought of."""

from __future__ import annotations

import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hemiola.cli import screen
from hemiola.generation import MusicGen

Run = Callable[..., Any]


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_ctrl_c_leaves_no_half_file(hemiola: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    words = ("generate", "bell", "--seconds", "0.1", "--model", tiny, "-o", "out.wav")
    for owner, name in ((MusicGen, "each"), (MusicGen, "from_pretrained")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, interrupted)
            ran = hemiola(*words)
        assert (ran.code, ran.out) == (130, "")
        assert ran.err == "interrupted: files not yet listed were not written\n"
    # In the middle of writing, with a name of its own choice as well.
    with monkeypatch.context() as patched:
        patched.setattr("soundfile.SoundFile.write", interrupted)
        assert hemiola(*words).code == 130
        assert hemiola(*words[:-2]).code == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_real_ctrl_c_ends_a_real_process(process: Run, tiny: Path, tmp_path: Path) -> None:
    terminal, inside = pty.openpty()
    words = ["generate", "bell", "--seconds", "900", "--model", tiny, "-o", "out.wav"]
    running = process(words, stderr=inside)
    os.close(inside)
    seen = b""
    while b"x" not in seen.rpartition(b" s ")[2] and running.poll() is None:
        seen += os.read(terminal, 1000) if select.select([terminal], [], [], 60)[0] else b""
    running.send_signal(signal.SIGINT)
    while select.select([terminal], [], [], 10)[0]:
        try:
            more = os.read(terminal, 1000)
        except OSError:  # how Linux says that nobody writes here any more
            break
        seen += more
    assert running.wait(60) == 130
    assert seen.decode().rstrip().endswith("interrupted: files not yet listed were not written")
    assert b"Traceback" not in seen
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of this kind are POSIX")
def test_a_disk_that_fills_up_leaves_no_half_file(process: Run, tiny: Path, tmp_path: Path) -> None:
    def limit() -> None:
        # A limit on the size of files stands for a full disk: writing fails in the middle.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    words = ["generate", "bell", "--seconds", "1", "--model", tiny, "-o", "out.wav"]
    code, out, err = ended(process(words, preexec_fn=limit))
    assert (code, out) == (2, "")
    assert err.startswith("error: out.wav cannot be written")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("words", [[], ["-o", "out.wav"]])
def test_a_folder_that_may_not_be_written_is_said_first(hemiola: Run, tmp_path: Path, words: list[str]) -> None:
    tmp_path.chmod(0o555)
    ran = hemiola("generate", "bell", "--model", "nosuch", *words)
    tmp_path.chmod(0o755)
    assert "may not be written" in ran.error


def test_a_reader_that_leaves_is_no_error(process: Run) -> None:
    running = process(["models", "list"])
    running.stdout.close()
    assert running.stderr.read() == ""
    assert running.wait(60) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_stdout_is_one_line(process: Run) -> None:
    with Path("/dev/full").open("w") as full:
        code, _, err = ended(process(["models", "list"], stdout=full))
    assert (code, err) == (1, "error: No space left on device\n")


def test_an_unexpected_error_is_one_line_and_debug_shows_where(
    hemiola: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **settings: object) -> None:
        raise ZeroDivisionError("a bug\nof two lines")

    monkeypatch.setattr(MusicGen, "from_pretrained", broken)
    words = ["generate", "bell", "--model", tiny, "-o", "out.wav"]
    ran = hemiola(*words)
    assert (ran.code, ran.error) == (
        1,
        "unexpected ZeroDivisionError (a bug of two lines): run again with --debug to see where",
    )
    for loud in ([*words, "--debug"], ["--debug", *words]):
        ran = hemiola(*loud)
        assert ran.code == 1
        assert "Traceback" in ran.err
        assert "in broken" in ran.err
    # Behind a double dash it is a prompt.
    assert "Traceback" not in hemiola(*words[:1], *words[2:], "--", "--debug").err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_no_memory_left_is_one_line(
    hemiola: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def greedy(*arguments: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr(MusicGen, "each", greedy)
    ran = hemiola("generate", "bell", "--model", tiny, "-o", "out.wav")
    assert ran.error.startswith("out of memory: ask for fewer seconds")


def test_no_words_are_help_and_not_success(hemiola: Run) -> None:
    for words in ([], ["models"], ["train"]):
        ran = hemiola(*words)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("Usage: hemiola")


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("command", ["", "generate", "encode", "models show"])
def test_help_fits_the_terminal(process: Run, monkeypatch: pytest.MonkeyPatch, columns: int, command: str) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, err = ended(process([*command.split(), "--help"]))
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= columns
    assert "…" not in out


def test_defaults_in_the_help_are_those_of_a_request(hemiola: Run) -> None:
    from hemiola.request import Request

    text = " ".join(hemiola("generate", "--help").out.split())
    for name in ("seconds", "guidance", "top_k", "top_p", "temperature"):
        default = re.search(rf"--{name.replace('_', '-')} .*?\[default: (.*?)\]", text)
        assert default is not None
        usual = getattr(Request("x"), name)
        assert default[1] == ("the model's" if usual is None else str(usual))


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3 s"), (0.1, "0.1 s"), (1 / 3, "0.333 s"), (3600, "3600 s"), (0.00003, "0 s")]
)
def test_seconds_for_reading(seconds: float, text: str) -> None:
    assert screen.shown(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1234567, "1.2 MB"), (5e12, "5000.0 GB")]
)
def test_bytes_for_reading(count: int, text: str) -> None:
    assert screen.shown_bytes(int(count)) == text


def test_bars_fit_a_narrow_terminal() -> None:
    code = (
        "import time\nfrom fractions import Fraction\nfrom hemiola.cli import screen\n"
        "with screen.music_bar('97-100 of 100', Fraction(3600)) as progress:\n"
        "    for step in range(1, 4): progress(step, 3); time.sleep(0.3)\n"
        "with screen.download_bar('facebook/musicgen-stereo-medium@' + 40 * 'f') as progress:\n"
        "    for step in range(1, 4): progress(step * 10**9, 3 * 10**9); time.sleep(0.3)\n"
    )
    terminal, inside = pty.openpty()
    environment = {**os.environ, "COLUMNS": "40", "TERM": "xterm"}
    drawing = subprocess.Popen([sys.executable, "-c", code], stderr=inside, env=environment)
    os.close(inside)
    seen, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            more = os.read(terminal, 1000)
        except OSError:
            break
        if not more:
            break
        seen += more
    assert drawing.wait(60) == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    lines = [line for line in re.split(r"[\r\n]+", plain) if line.strip()]
    assert max(map(len, lines)) <= 40
    assert any(re.search(r"97-100 of 100 .* 2400.0/3600.0 s \d+.\dx", line) for line in lines)
    assert any("2.0 GB/3.0 GB" in line for line in lines)
