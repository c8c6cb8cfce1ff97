"""Tensors by name: read from a folder, weight norm folded in or out, and checked against what a model expects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hemiola.errors import WeightsError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
# The pickles of audiocraft's layout: language model and codec.
AUDIOCRAFT = ("state_dict.bin", "compression_state_dict.bin")

# Both spellings of weight norm's (magnitude, direction): the first is published, the second is what torch writes today.
_NORM_PAIRS = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
_LISTED = 10
_REFETCH = "delete it and fetch it again"


def read(folder: str | Path, backend: str, *, allow_pickle: bool = False) -> dict[str, Any]:
    """All tensors of a checkpoint folder, by name, as arrays of `backend` ("torch" or "mlx") in the dtype of the file.

    Reads `model.safetensors` or the shards that `model.safetensors.index.json` names; `pytorch_model.bin` only when
    there is neither and `allow_pickle` is set (and then without running code from it). Raises WeightsError.
    """
    tensors: dict[str, Any] = {}
    for path in files(folder, allow_pickle=allow_pickle):
        load = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
        tensors.update(load(path, backend))
    if not tensors:
        raise WeightsError(f"{folder} holds a checkpoint without a single tensor: {_REFETCH}")
    return tensors


def files(folder: str | Path, *, allow_pickle: bool = False) -> list[Path]:
    """The weight files of a checkpoint folder, all of them present; raises WeightsError for what is not there."""
    folder = Path(folder)
    single = _single(folder, allow_pickle)
    if single is not None:
        return [single]
    for index, wanted in ((INDEX, True), (PICKLE_INDEX, allow_pickle)):
        if wanted and (folder / index).is_file():
            return _shards(folder / index)
    if (folder / PICKLE).is_file() or (folder / PICKLE_INDEX).is_file():
        raise WeightsError(f"{folder} has its weights as a pickle only: pass --allow-pickle if you trust its source")
    raise WeightsError(f"{folder} holds no weights: expected {WEIGHTS}, or {INDEX} and the files that it names")


def unpickled(path: Path) -> dict[str, Any]:
    """What a pickle of names and torch tensors holds; no code in it is run. Raises WeightsError."""
    try:
        import torch
    except ImportError:
        raise WeightsError(f"{path} is a pickle, which only torch can read: pip install 'hemiola[torch]'") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return {str(name): value for name, value in content.items()}
    except Exception as error:
        # torch raises a dozen kinds here, from EOFError to UnpicklingError; all mean the same to whoever reads it.
        raise WeightsError(f"{path} is damaged, or holds more than tensors ({_short(error)}): {_REFETCH}") from error


def in_arrays_of(backend: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Torch tensors by name as arrays of `backend`; in MLX they are float32."""
    if backend != "mlx":
        return dict(tensors)
    import mlx.core as mx

    return {name: mx.array(tensor.float().numpy()) for name, tensor in tensors.items()}


def write(path: Path, tensors: Mapping[str, Any], backend: str, dtype: str) -> None:
    """Write arrays of `backend` as one safetensors file, those of floats as `dtype`; OSError when that cannot be."""
    if backend == "mlx":
        import mlx.core as mx

        floats = {name: each for name, each in tensors.items() if mx.issubdtype(each.dtype, mx.floating)}
        cast = {name: each.astype(getattr(mx, dtype)) for name, each in floats.items()}
        mx.save_safetensors(str(path), {**tensors, **cast}, metadata={"format": "pt"})
        return
    import torch
    from safetensors.torch import save_file

    stored = getattr(torch, dtype)
    ready = {name: each.to(stored) if each.is_floating_point() else each for name, each in tensors.items()}
    save_file({name: each.contiguous() for name, each in ready.items()}, path, metadata={"format": "pt"})


def json_of(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint; raises WeightsError when there is none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error}): fetch the checkpoint again") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path} is not a config: fetch the checkpoint again")
    return values


def under(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The tensors whose name starts with `prefix`, without it: `under(t, "decoder.")["a"]` is `t["decoder.a"]`."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def fold_weight_norm(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Every pair of magnitude g and direction v as the one `weight` = v * g / |v|; all other tensors as they are.

    The norm runs over the axes where g has size 1. Computed in float32, returned in the dtype of v. Salimans and
    Kingma 2016, equation 2. Raises WeightsError for half a pair.
    """
    folded = dict(tensors)
    for name in tensors:
        for magnitude, direction in _NORM_PAIRS:
            if not _ends(name, magnitude) and not _ends(name, direction):
                continue
            stem = name.removesuffix(magnitude).removesuffix(direction)
            if stem + magnitude not in tensors or stem + direction not in tensors:
                raise WeightsError(f"{name} is half a weight norm: {stem}{magnitude} and {stem}{direction} go together")
            if _ends(name, direction):
                folded[stem + "weight"] = _fold(folded.pop(stem + magnitude), folded.pop(name))
    return folded


def unfold_weight_norm(tensors: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The inverse, for writing: each of `names` (`...conv.weight`) becomes `...weight_g` [n, 1, 1], `...weight_v`."""
    unfolded = dict(tensors)
    for name in names:
        weight = unfolded.pop(name)
        stem = name.removesuffix("weight")
        unfolded[stem + "weight_g"] = _cast_like(_norm(_float32(weight), tuple(range(1, weight.ndim))), weight)
        unfolded[stem + "weight_v"] = weight
    return unfolded


def check(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Any], *, where: str, ignorable: tuple[str, ...] = ()
) -> None:
    """Raise one WeightsError that lists what is missing, surplus or mis-shaped, by name, when `found` does not fit.

    `where` opens the message. `ignorable` are names or shell patterns (`*.num_batches`) that may be surplus.
    """
    missing = [f"{name} {list(expected[name])}" for name in expected if name not in found]
    surplus = [
        f"{name} {list(found[name].shape)}"
        for name in found
        if name not in expected and not any(fnmatchcase(name, pattern) for pattern in ignorable)
    ]
    shaped = [
        f"{name} is {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    kinds = {"missing": missing, "surplus": surplus, "mis-shaped": shaped}
    if any(kinds.values()):
        counts = ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items() if names)
        lists = "".join(f"\n  {kind}: {_listing(names)}" for kind, names in kinds.items() if names)
        raise WeightsError(f"{where}: the weights do not fit the config ({counts}){lists}")


def _single(folder: Path, allow_pickle: bool) -> Path | None:
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    if allow_pickle and not (folder / INDEX).is_file() and (folder / PICKLE).is_file():
        return folder / PICKLE
    return None


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        # A name with a folder in it could point anywhere on the disk.
        if found and all(isinstance(file, str) and Path(file).name == file for file in found.values()):
            return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise WeightsError(f"{index} is not an index of weights: {_REFETCH}") from None


def _shards(index: Path) -> list[Path]:
    paths = [index.parent / file for file in sorted(set(_weight_map(index).values()))]
    lost = [path.name for path in paths if not path.is_file()]
    if lost:
        raise WeightsError(f"{index.parent} is incomplete, {_listing(lost)} not there: {_REFETCH}")
    return paths


def _read_safetensors(path: Path, backend: str) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        # mlx reads lazily and would not notice a file that was cut short; opening it here checks header and length.
        with safe_open(path, framework="numpy"):
            pass
        if backend == "mlx":
            import mlx.core as mx

            tensors = mx.load(str(path))
            return tensors if isinstance(tensors, dict) else {}
        from safetensors.torch import load_file

        return load_file(path)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path} is damaged or cut short ({_short(error)}): {_REFETCH}") from error


def _read_pickle(path: Path, backend: str) -> dict[str, Any]:
    return in_arrays_of(backend, {name: each for name, each in unpickled(path).items() if hasattr(each, "shape")})


def _fold(g: Any, v: Any) -> Any:
    wide = _float32(v)
    norm = _norm(wide, tuple(axis for axis in range(g.ndim) if g.shape[axis] == 1))
    # A filter of zeros has no direction: it stays zeros instead of 0 / 0.
    return _cast_like(wide * (_float32(g) / (norm + (norm == 0))), v)


def _norm(array: Any, axes: tuple[int, ...]) -> Any:
    return (array * array).sum(axis=axes, keepdims=True) ** 0.5


def _float32(array: Any) -> Any:
    if hasattr(array, "float"):
        return array.float()
    import mlx.core as mx

    return array.astype(mx.float32)


def _cast_like(array: Any, like: Any) -> Any:
    return array.to(like.dtype) if hasattr(array, "to") else array.astype(like.dtype)


def _ends(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith("." + suffix)


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
