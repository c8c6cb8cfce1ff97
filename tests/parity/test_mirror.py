"""Neighbours mirror each other: a reader of one file knows the other."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

import pytest

import hemiola

PACKAGE = Path(hemiola.__file__).parent
PAIRS = (
    *("codec/seanet", "codec/stream", "codec/encodec"),
    *(f"musicgen/{each}" for each in ("t5", "decoder", "fused", "sampling", "session")),
)
LEAST_IDENTICAL = 0.6

# A module is called by this name in each framework.
CALL = {"forward": "__call__"}
# What only one side has a use for, and why.
ONE_SIDED = {
    "seanet_torch.py": {"upsampled"},  # MLX's own transposed convolution is as quick as the product
    "stream_torch.py": {"quickest", "run", "parted", "Gathered", "InTiles"},  # kernels; deep layers see many frames
    "encodec_torch.py": {"to_checkpoint", "save"},  # checkpoints are written by training, and training is in torch
    "fused_torch.py": {"_packed"},  # MLX has a function that finds the matrices
    "decoder_torch.py": {"attend"},  # quick gradients, and training is in torch
    "session_mlx.py": {"_shapes"},  # torch has state_dict
}
# Parameters that only one side wants: in torch an array knows its device, in MLX whoever computes does.
ONE_SIDED_PARAMETERS = {
    ("session_mlx.py", "Session.__init__"): {"device"},
    ("sampling_torch.py", "Picker.__init__"): {"device"},
    ("fused_mlx.py", "quantize"): {"bits"},  # torch has kernels for 8 alone
    ("stream_torch.py", "SeanetStream.__init__"): {"tile", "deep"},
    ("encodec_torch.py", "EncoderStream.__init__"): {"tile"},
    ("encodec_torch.py", "DecoderStream.__init__"): {"tile"},
}

Definition = ast.ClassDef | ast.FunctionDef


def both(pair: str) -> tuple[Path, Path]:
    return PACKAGE / f"{pair}_torch.py", PACKAGE / f"{pair}_mlx.py"


def shared(path: Path) -> ast.Module:
    """The file without what is there on its side alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = ONE_SIDED.get(path.name, set())
    found = {node.name for node in tree.body if isinstance(node, Definition)}
    assert alone <= found, f"{path.name} no longer has {alone - found}: take it off the list"
    tree.body = [node for node in tree.body if not (isinstance(node, Definition) and node.name in alone)]
    return tree


def signatures(path: Path) -> list[tuple[str, ...]]:
    """Every class, method and function in order, with its parameters."""
    found: list[tuple[str, ...]] = []

    def walk(nodes: list[ast.stmt], prefix: str) -> None:
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                found.append((prefix + node.name,))
                walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                name = prefix + CALL.get(node.name, node.name)
                arguments = [*node.args.args, *node.args.kwonlyargs]
                alone = ONE_SIDED_PARAMETERS.get((path.name, name), set())
                found.append((name, *(each.arg for each in arguments if each.arg not in alone)))
            elif isinstance(node, ast.AnnAssign):
                found.append((prefix + ast.unparse(node.target),))

    walk(shared(path).body, "")
    return found


def lines(path: Path) -> list[str]:
    """The lines of what is shared, stripped, without comments and empty ones."""
    text = path.read_text(encoding="utf-8").splitlines()
    numbers = [n for node in shared(path).body for n in range(node.lineno - len(decorators(node)) - 1, node.end_lineno)]
    stripped = [text[number].strip() for number in numbers]
    return [line for line in stripped if line and not line.startswith("#")]


def decorators(node: ast.stmt) -> list[ast.expr]:
    return node.decorator_list if isinstance(node, Definition) else []


@pytest.mark.parametrize("pair", PAIRS)
def test_classes_methods_and_parameters_are_the_same_and_in_the_same_order(pair: str) -> None:
    on_torch, on_mlx = both(pair)
    assert signatures(on_mlx) == signatures(on_torch)


@pytest.mark.parametrize("pair", PAIRS)
def test_three_lines_of_five_are_identical(pair: str) -> None:
    on_torch, on_mlx = both(pair)
    ratio = difflib.SequenceMatcher(None, lines(on_torch), lines(on_mlx), autojunk=False).ratio()
    assert ratio >= LEAST_IDENTICAL, f"{pair}: {ratio:.3f}"


def test_every_file_on_mlx_has_its_neighbour_under_test() -> None:
    found = {str(path.relative_to(PACKAGE)).removesuffix("_mlx.py") for path in PACKAGE.rglob("*_mlx.py")}
    assert found == set(PAIRS)


def test_one_side_knows_nothing_of_the_other() -> None:
    for pair in PAIRS:
        for path, other in zip(both(pair), ("mlx", "torch")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not any(name.split(".")[0] == other or name.endswith(f"_{other}") for name in names), path
