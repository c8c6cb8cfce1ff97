"""Where machine code is kept, and that a place which is full or damaged only costs time."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import hemiola

pytest.importorskip("numba")

from numba.core.caching import FunctionCache

from hemiola.kernels import compiling_numba


def test_machine_code_is_kept_apart_for_each_state_of_the_sources(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiling_numba.numba.config, "CACHE_DIR", "")
    place = compiling_numba._shelf.__wrapped__()
    assert place.parent == tmp_path / "hemiola"
    package = Path(hemiola.__file__).parent
    copies = tmp_path / "sources"
    for each in package.rglob("*_numba.py"):
        copy = copies / each.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(each.read_bytes())
    monkeypatch.setattr(compiling_numba, "__file__", str(copies / "kernels" / "compiling_numba.py"))
    assert compiling_numba._shelf.__wrapped__() == place
    (copies / "musicgen" / "step_numba.py").write_text("changed")
    assert compiling_numba._shelf.__wrapped__() != place


def _twice(x: int) -> int:
    return 2 * x


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(compiling_numba, "_shelf", lambda: tmp_path)
    return tmp_path


def test_a_damaged_file_of_machine_code_only_costs_time(shelf: Path) -> None:
    assert compiling_numba.compiled(_twice)(3) == 6
    kept = [each for each in shelf.rglob("*") if each.is_file()]
    assert {each.suffix for each in kept} == {".nbi", ".nbc"}
    for each in kept:
        each.write_bytes(each.read_bytes()[:40])
    assert compiling_numba.compiled(_twice)(3) == 6


def test_a_full_disk_only_costs_time(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FunctionCache, "save_overload", full)
    assert compiling_numba.compiled(_twice)(3) == 6


def test_where_there_is_no_place_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("nobody has a home here")

    monkeypatch.setattr(compiling_numba, "_shelf", nowhere)
    before = compiling_numba.numba.config.CACHE_DIR
    assert compiling_numba.compiled(_twice)(3) == 6
    assert before == compiling_numba.numba.config.CACHE_DIR
