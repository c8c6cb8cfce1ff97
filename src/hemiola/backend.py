"""Which framework runs: `torch` or `mlx`; its devices and dtypes, and what to install when it is missing."""

from __future__ import annotations

import functools
import importlib.util
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from hemiola.errors import BackendError

BACKENDS = ("torch", "mlx")
DTYPES = ("float32", "bfloat16", "float16")
# What is fast without being heard; elsewhere float32 is as fast as anything, or nothing else was measured.
QUICK = {("torch", "cpu"): "int8", ("torch", "cuda"): "bfloat16", ("mlx", "gpu"): "bfloat16"}
BITS = {"torch": (8,), "mlx": (8, 4)}
DEVICES = {"torch": ("cpu", "cuda", "mps"), "mlx": ("cpu", "gpu")}

_Method = TypeVar("_Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class Backend:
    """A choice that has been checked: framework, device and dtype, by name; bits of a quantised decoder's weights."""

    name: str
    device: str
    dtype: str
    quantize: int | None = None


def choose(name: str = "auto", device: str = "auto", dtype: str = "float32", quantize: int | None = None) -> Backend:
    """Settle `auto` into names that work here, or raise BackendError with what to install or to ask for instead.

    The dtype int8 is float32 with the decoder's matrices quantised to 8 bits, or to 6 and scales where its steps are
    compiled; auto is what is fast without being heard.
    """
    name = _framework(name)
    if dtype not in (*DTYPES, "int8", "auto"):
        raise BackendError(f"unknown dtype '{dtype}': one of {', '.join(DTYPES)}, int8, auto")
    device = _device(name, device)
    if dtype == "auto":
        dtype = "float32" if quantize is not None else QUICK.get((name, device.partition(":")[0]), "float32")
    if dtype == "int8":
        dtype, quantize = "float32", 8 if quantize is None else quantize
    if quantize is not None:
        _require_bits(name, device, dtype, quantize)
    if (name, device, dtype) == ("torch", "cpu", "float16"):
        raise BackendError("float16 is very slow on a CPU: use --dtype float32 or bfloat16")
    return Backend(name, device, dtype, quantize)


def on_device(method: _Method) -> _Method:
    """A method of an object with a `device`, "cpu" or "gpu", that computes there whatever mlx's default device is."""

    @functools.wraps(method)
    def on_its_device(self: Any, *arguments: Any, **named: Any) -> Any:
        import mlx.core as mx

        with mx.stream(getattr(mx, self.device)):
            return method(self, *arguments, **named)

    # mypy cannot see that wraps() keeps the method's own signature.
    return on_its_device  # type: ignore[return-value]


def installed(name: str) -> bool:
    """Whether the framework can be imported; it is not imported to find out."""
    return importlib.util.find_spec(name if name == "torch" else "mlx.core" if _has("mlx") else "mlx") is not None


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _framework(name: str) -> str:
    if name == "auto":
        order = ("mlx", "torch") if sys.platform == "darwin" and platform.machine() == "arm64" else ("torch", "mlx")
        name = next((each for each in order if installed(each)), order[0])
    if name not in BACKENDS:
        raise BackendError(f"unknown backend '{name}': one of auto, {', '.join(BACKENDS)}")
    if not installed(name):
        raise BackendError(f"the {name} backend is not installed: pip install 'hemiola[{name}]'")
    return name


def _require_bits(name: str, device: str, dtype: str, bits: int) -> None:
    if name == "torch" and (device, dtype) != ("cpu", "float32"):
        raise BackendError(
            f"torch does not quantise {dtype} on {device}: leave out --quantize, or --dtype and --device"
        )
    if bits not in BITS[name]:
        known = " or ".join(map(str, BITS[name]))
        raise BackendError(f"{name} cannot quantise to {bits} bits: ask for {known}, or for none")


def _device(backend: str, device: str) -> str:
    kind = device.partition(":")[0]
    if device != "auto" and kind not in DEVICES[backend]:
        raise BackendError(f"unknown device '{device}' for {backend}: one of auto, {', '.join(DEVICES[backend])}")
    if backend == "mlx":
        try:
            import mlx.core as mx
        except ImportError as error:
            # On Linux the package mlx alone holds no library to compute with.
            raise BackendError("mlx is installed without a backend: pip install 'hemiola[mlx]'") from error

        has_gpu = mx.metal.is_available() or (hasattr(mx, "cuda") and mx.cuda.is_available())
        if device == "gpu" and not has_gpu:
            raise BackendError("mlx has no gpu on this machine: use --device cpu")
        return ("gpu" if has_gpu else "cpu") if device == "auto" else device
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(each for each in ("cuda", "mps", "cpu") if available[each])
    if not available[kind]:
        raise BackendError(f"torch has no {kind} on this machine: use --device cpu")
    return device
