"""Reading tensors, weight norm against torch's own, and the report of what does not fit."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch.nn.utils.parametrizations import weight_norm

from hemiola.errors import WeightsError
from hemiola.weights import keys

BACKENDS = ("torch", "mlx")


def as_backend(array: np.ndarray, backend: str) -> Any:
    if backend == "torch":
        return torch.from_numpy(array.copy())
    import mlx.core as mx

    return mx.array(array)


def as_numpy(array: Any) -> np.ndarray:
    return array.detach().numpy() if isinstance(array, torch.Tensor) else np.array(array.tolist(), np.float32)


def tensors() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {"a.weight": draw.normal(size=(3, 2)).astype(np.float32), "b": np.arange(4, dtype=np.int32)}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_single_file(tmp_path: Path, backend: str) -> None:
    save_file(tensors(), tmp_path / "model.safetensors")
    found = keys.read(tmp_path, backend)
    assert found.keys() == {"a.weight", "b"}
    np.testing.assert_array_equal(as_numpy(found["a.weight"]), tensors()["a.weight"])
    assert "int32" in str(found["b"].dtype)
    assert type(found["b"]).__module__.partition(".")[0] == backend


def shards(folder: Path) -> Path:
    save_file({"a": np.zeros(2, np.float32)}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": np.ones(2, np.float32)}, folder / "model-00002-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_shards(tmp_path: Path, backend: str) -> None:
    found = keys.read(shards(tmp_path), backend)
    assert {name: as_numpy(tensor).tolist() for name, tensor in found.items()} == {"a": [0, 0], "b": [1, 1]}


def refusal(folder: Path, backend: str = "torch", allow_pickle: bool = False) -> str:
    with pytest.raises(WeightsError) as caught:
        keys.read(folder, backend, allow_pickle=allow_pickle)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_a_shard_that_is_not_there(tmp_path: Path) -> None:
    (shards(tmp_path) / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "../model-00001-of-00002.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
    ],
)
def test_an_index_that_is_none(tmp_path: Path, index: str) -> None:
    (shards(tmp_path) / "model.safetensors.index.json").write_text(index)
    assert "is not an index" in refusal(tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "holds no weights" in refusal(tmp_path)
    assert "holds no weights" in refusal(tmp_path / "nowhere")
    save_file({}, tmp_path / "model.safetensors")
    assert "without a single tensor" in refusal(tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "damage", [lambda d: b"", lambda d: d[:6], lambda d: d[:40], lambda d: d[:-1], lambda d: d + b"x"]
)
def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path, backend: str, damage: Any) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors(), path)
    path.write_bytes(damage(path.read_bytes()))
    text = refusal(tmp_path, backend)
    assert str(path) in text
    assert "delete it and fetch it again" in text


@pytest.mark.parametrize("backend", BACKENDS)
def test_garbage_of_any_kind(tmp_path: Path, backend: str) -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        (tmp_path / "model.safetensors").write_bytes(draw.bytes(int(draw.integers(0, 300))))
        assert "damaged" in refusal(tmp_path, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pickle_is_read_only_when_allowed(tmp_path: Path, backend: str) -> None:
    torch.save({"a": torch.arange(3.0)}, tmp_path / "pytorch_model.bin")
    assert "--allow-pickle" in refusal(tmp_path, backend)
    found = keys.read(tmp_path, backend, allow_pickle=True)
    assert as_numpy(found["a"]).tolist() == [0, 1, 2]
    save_file({"a": np.full(3, 7, np.float32)}, tmp_path / "model.safetensors")
    assert as_numpy(keys.read(tmp_path, backend, allow_pickle=True)["a"]).tolist() == [7, 7, 7]


def test_a_sharded_pickle(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model-00001-of-00001.bin")
    index = {"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert "--allow-pickle" in refusal(tmp_path)
    assert keys.read(tmp_path, "torch", allow_pickle=True).keys() == {"a"}


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (sys.exit, ("a pickle ran code",))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_pickle_never_runs_code(tmp_path: Path) -> None:
    torch.save({"a": Payload()}, tmp_path / "pytorch_model.bin")
    assert "holds more than tensors" in refusal(tmp_path, allow_pickle=True)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    assert "holds more than tensors" in refusal(tmp_path, allow_pickle=True)
    (tmp_path / "pytorch_model.bin").write_bytes(b"junk")
    assert "damaged" in refusal(tmp_path, allow_pickle=True)


def test_under_strips_only_its_own_prefix() -> None:
    assert keys.under({"a.b.c": 1, "a.d": 2, "ab.c": 3}, "a.") == {"b.c": 1, "d": 2}


# ---- weight norm, against torch


def normed(layer: torch.nn.Module, dim: int = 0) -> torch.nn.Module:
    layer = weight_norm(layer, dim=dim)
    with torch.no_grad():
        # A magnitude that is not the norm of the direction, or folding could just return the direction.
        layer.parametrizations.weight.original0.mul_(torch.rand(()) + 1.5)
    return layer


LAYERS = [
    lambda: normed(torch.nn.Conv1d(3, 5, 7)),
    lambda: normed(torch.nn.ConvTranspose1d(3, 5, 4)),
    lambda: normed(torch.nn.Conv1d(1, 1, 3)),
    lambda: normed(torch.nn.Conv2d(2, 3, (3, 5))),
    lambda: normed(torch.nn.Linear(4, 6)),
    lambda: normed(torch.nn.Conv1d(3, 5, 7), dim=1),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "spelling", ["weight_g weight_v", "parametrizations.weight.original0 parametrizations.weight.original1"]
)
@pytest.mark.parametrize("make", LAYERS)
def test_folding_gives_the_weight_that_torch_uses(make: Any, spelling: str, backend: str) -> None:
    torch.manual_seed(0)
    layer = make()
    g, v = (f"net.0.{name}" for name in spelling.split())
    state = {
        "net.0.bias": as_backend(layer.bias.detach().numpy(), backend),
        g: as_backend(layer.parametrizations.weight.original0.detach().numpy(), backend),
        v: as_backend(layer.parametrizations.weight.original1.detach().numpy(), backend),
    }
    folded = keys.fold_weight_norm(state)
    assert folded.keys() == {"net.0.bias", "net.0.weight"}
    np.testing.assert_allclose(as_numpy(folded["net.0.weight"]), layer.weight.detach().numpy(), rtol=1e-6, atol=1e-7)
    assert state.keys() == {"net.0.bias", g, v}


def test_folding_without_a_prefix_and_of_zeros() -> None:
    folded = keys.fold_weight_norm({"weight_g": torch.ones(2, 1), "weight_v": torch.tensor([[0.0, 0.0], [3.0, 4.0]])})
    torch.testing.assert_close(folded["weight"], torch.tensor([[0.0, 0.0], [0.6, 0.8]]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_is_folded_in_float32(backend: str) -> None:
    v = np.full((1, 512), 30.0, np.float16)  # the sum of squares is past the largest float16
    state = {"weight_g": as_backend(np.ones((1, 1), np.float16), backend), "weight_v": as_backend(v, backend)}
    folded = keys.fold_weight_norm(state)["weight"]
    assert "float16" in str(folded.dtype)
    np.testing.assert_allclose(np.array(folded.tolist()), 512**-0.5, rtol=1e-3)


def test_half_a_pair_is_an_error() -> None:
    with pytest.raises(WeightsError, match=r"x\.weight_v is half a weight norm"):
        keys.fold_weight_norm({"x.weight_v": torch.ones(2, 2)})


def test_names_that_only_look_alike_stay() -> None:
    state = {"my_weight_g": torch.ones(1), "weight_v.bias": torch.ones(1)}
    assert keys.fold_weight_norm(state) == state


@pytest.mark.parametrize("backend", BACKENDS)
def test_unfolding_is_undone_by_folding(backend: str) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    state = {"c.weight": as_backend(weight, backend), "c.bias": as_backend(np.zeros(4, np.float32), backend)}
    unfolded = keys.unfold_weight_norm(state, ["c.weight"])
    assert {name: tuple(tensor.shape) for name, tensor in unfolded.items()} == {
        "c.weight_g": (4, 1, 1),
        "c.weight_v": (4, 3, 5),
        "c.bias": (4,),
    }
    np.testing.assert_allclose(
        as_numpy(unfolded["c.weight_g"]).ravel(), np.linalg.norm(weight.reshape(4, -1), axis=1), rtol=1e-6
    )
    np.testing.assert_allclose(as_numpy(keys.fold_weight_norm(unfolded)["c.weight"]), weight, rtol=1e-6)


# ---- the report


def test_what_fits_passes() -> None:
    keys.check({"a": (2,)}, {"a": torch.zeros(2), "old.mask": torch.zeros(1)}, where="m", ignorable=("*.mask",))


def test_one_error_lists_all_that_is_wrong() -> None:
    expected = {"a": (2,), "b": (3, 4), "c": (1,)}
    found = {"b": torch.zeros(4, 3), "c": torch.zeros(1), "d": torch.zeros(5)}
    with pytest.raises(WeightsError) as caught:
        keys.check(expected, found, where="some/model")
    assert str(caught.value).splitlines() == [
        "some/model: the weights do not fit the config (1 missing, 1 surplus, 1 mis-shaped)",
        "  missing: a [2]",
        "  surplus: d [5]",
        "  mis-shaped: b is [4, 3], expected [3, 4]",
    ]


def test_a_long_list_is_cut() -> None:
    with pytest.raises(WeightsError, match=r"\(37 missing\)\n  missing: .*layer\.9 \[1\] and 27 more$"):
        keys.check({f"layer.{k}": (1,) for k in range(37)}, {}, where="m")
