"""The house rules that a program can check: floors, cycles, frameworks, file length, names, rates."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hemiola

SOURCE = Path(hemiola.__file__).parent
FLOORS = {
    "timebase": 0,
    "errors": 0,
    "audio": 1,
    "weights": 1,
    "synth": 1,
    "backend": 1,
    "kernels": 1,
    "codec": 2,
    "musicgen": 3,
}
FLOORS |= {"blend": 3, "request": 4, "generation": 4, "train": 4, "bench": 5, "cli": 6, "serve": 6}
TOGETHER = {"request", "generation"}  # one thing in two files
FRAMEWORKS = {"torch", "mlx", "lightning", "numba"}
MAY_NAME_RATES = {"codec/config.py", "synth/compose.py", "synth/render.py", "train/opus.py", "train/synthetic.py"}
MAY_NAME_RATES |= {"blend/selector_torch.py"}  # 50 are columns there, as an earlier system had them

FILES = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def module(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module(name) for name in FILES}


def inside(name: str) -> str:
    return name.removeprefix("hemiola.")


def imported(tree: ast.AST) -> set[str]:
    """Modules of this package that a file imports anywhere, without the leading `hemiola.`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {inside(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {inside(f"{node.module}.{alias.name}") for alias in node.names}
            found |= names if names & MODULES else {inside(str(node.module))}
    return found & MODULES


# The package's own __init__ names what it loads lazily; nothing below may lean on that.
EDGES = {module(name): imported(tree) for name, tree in TREES.items() if name != "__init__.py"}


@pytest.mark.parametrize("name", sorted(EDGES))
def test_imports_go_down_or_stay_in_their_package(name: str) -> None:
    home = name.partition(".")[0]
    for target in EDGES[name]:
        house = target.partition(".")[0]
        lower = FLOORS[house] < FLOORS[home]
        assert lower or house == home or {house, home} <= TOGETHER, f"{name} imports {target}"


def test_there_is_no_cycle() -> None:
    TopologicalSorter(EDGES).prepare()


def frameworks(nodes: list[ast.stmt]) -> set[str]:
    tops = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            tops |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            tops.add(str(node.module).partition(".")[0])
    return tops & FRAMEWORKS


@pytest.mark.parametrize("name", sorted(FILES))
def test_frameworks_stay_in_their_files(name: str) -> None:
    if name.startswith("train/"):
        return
    own = {framework for framework in FRAMEWORKS if name.endswith(f"_{framework}.py")}
    assert frameworks(TREES[name].body) <= own
    anywhere = frameworks([node for node in ast.walk(TREES[name]) if isinstance(node, ast.stmt)])
    assert anywhere <= own or name in ("backend.py", "weights/keys.py")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_is_short_and_named_after_a_thing(name: str) -> None:
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) < 400
    assert FILES[name].stem not in {"utils", "util", "common", "helpers", "helper", "base", "misc", "core"}
    assert ast.get_docstring(TREES[name])


@pytest.mark.parametrize("name", sorted(set(FILES) - MAY_NAME_RATES))
def test_rates_are_named_in_presets_only(name: str) -> None:
    rates = {320, 640, 24000, 32000, 48000} | (set() if name.startswith(("synth/", "train/", "cli/")) else {50, 75})
    found = {node.value for node in ast.walk(TREES[name]) if isinstance(node, ast.Constant) and type(node.value) is int}
    assert not found & rates
