"""Which framework runs: `auto`, devices, dtypes, bits, and what is said when something is missing."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from hemiola import backend
from hemiola.backend import Backend, choose, on_device
from hemiola.errors import BackendError


def have(monkeypatch: pytest.MonkeyPatch, *frameworks: str) -> None:
    """Make only `frameworks` look installed."""
    monkeypatch.setattr(backend, "installed", lambda name: name in frameworks)


def on(monkeypatch: pytest.MonkeyPatch, platform: str, machine: str) -> None:
    # For `backend` alone: a framework that is imported meanwhile must see the machine as it is.
    monkeypatch.setattr(backend, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(backend, "platform", SimpleNamespace(machine=lambda: machine))


@pytest.mark.parametrize(
    ("platform", "machine", "there", "wanted"),
    [
        ("darwin", "arm64", ("torch", "mlx"), "mlx"),
        ("darwin", "arm64", ("torch",), "torch"),
        ("darwin", "x86_64", ("torch", "mlx"), "torch"),
        ("linux", "x86_64", ("torch", "mlx"), "torch"),
        ("linux", "aarch64", ("mlx",), "mlx"),
    ],
)
def test_auto_takes_mlx_on_apple_silicon_and_torch_elsewhere(
    monkeypatch: pytest.MonkeyPatch, platform: str, machine: str, there: tuple[str, ...], wanted: str
) -> None:
    on(monkeypatch, platform, machine)
    have(monkeypatch, *there)
    assert choose(device="cpu").name == wanted


@pytest.mark.parametrize(("name", "there"), [("torch", ("mlx",)), ("mlx", ("torch",)), ("auto", ())])
def test_what_is_missing_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, there: tuple[str, ...]
) -> None:
    on(monkeypatch, "linux", "x86_64")
    have(monkeypatch, *there)
    missing = "torch" if name == "auto" else name
    with pytest.raises(BackendError, match=rf"{missing} backend is not installed: pip install 'hemiola\[{missing}\]'"):
        choose(name)


def test_mlx_without_a_library_to_compute_with_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "mlx")
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(BackendError, match=r"pip install 'hemiola\[mlx\]'"):
        choose("mlx")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "jax"}, "unknown backend 'jax': one of auto, torch, mlx"),
        ({"dtype": "float64"}, "unknown dtype 'float64': one of float32, bfloat16, float16, int8, auto"),
        ({"name": "mlx", "device": "cuda"}, "unknown device 'cuda' for mlx: one of auto, cpu, gpu"),
        ({"name": "torch", "device": "gpu"}, "unknown device 'gpu' for torch: one of auto, cpu, cuda, mps"),
        ({"name": "torch", "device": "cpu", "dtype": "float16"}, "float16 is very slow on a CPU"),
        ({"name": "mlx", "quantize": 5}, "mlx cannot quantise to 5 bits: ask for 8 or 4, or for none"),
        ({"name": "torch", "device": "cpu", "quantize": 4}, "torch cannot quantise to 4 bits: ask for 8, or for none"),
        ({"name": "torch", "device": "cpu", "dtype": "bfloat16", "quantize": 8}, "not quantise bfloat16 on cpu"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        choose(**settings)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_mlx_takes_every_dtype_and_bits(dtype: str, bits: int | None) -> None:
    assert choose("mlx", "cpu", dtype, bits) == Backend("mlx", "cpu", dtype, bits)


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_int8_is_float32_with_matrices_of_8_bits(name: str) -> None:
    pytest.importorskip("mlx.core" if name == "mlx" else name)
    expected = Backend(name, "cpu", "float32", 8)
    assert choose(name, "cpu", "int8") == choose(name, "cpu", "float32", 8) == expected


@pytest.mark.parametrize(
    ("name", "device", "wanted"),
    [("torch", "cpu", ("float32", 8)), ("mlx", "cpu", ("float32", None)), ("mlx", "gpu", ("bfloat16", None))],
)
def test_auto_is_what_is_fast_there(
    monkeypatch: pytest.MonkeyPatch, name: str, device: str, wanted: tuple[str, int | None]
) -> None:
    if name == "mlx":
        mlx = pytest.importorskip("mlx.core")
        monkeypatch.setattr(mlx.metal, "is_available", lambda: True)
    found = choose(name, device, "auto")
    assert (found.dtype, found.quantize) == wanted


def test_auto_leaves_float32_where_nothing_is_known_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose("torch", "mps", "auto") == Backend("torch", "mps", "float32", None)
    # Bits that were asked for come first.
    assert choose("torch", "cpu", "auto", 8) == Backend("torch", "cpu", "float32", 8)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mlx = pytest.importorskip("mlx.core")
    nothing = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setattr(mlx, "metal", nothing)
    monkeypatch.setattr(mlx, "cuda", nothing, raising=False)
    assert choose("mlx").device == "cpu"
    with pytest.raises(BackendError, match="no gpu"):
        choose("mlx", "gpu")


@pytest.mark.parametrize("kind", ["metal", "cuda"])
def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mlx = pytest.importorskip("mlx.core")
    monkeypatch.setattr(mlx, kind, SimpleNamespace(is_available=lambda: True), raising=False)
    assert choose("mlx").device == "gpu"
    assert choose("mlx", "cpu").device == "cpu"


def test_a_method_runs_on_the_device_of_its_object(monkeypatch: pytest.MonkeyPatch) -> None:
    mlx = pytest.importorskip("mlx.core")

    class Thing:
        device = "cpu"

        @on_device
        def where(self, plus: int, *, times: int) -> tuple[object, int]:
            return mlx.default_device(), (2 + plus) * times

    assert Thing().where(1, times=4) == (mlx.Device(mlx.cpu), 12)
