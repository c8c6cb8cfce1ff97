"""A checkpoint's content, in whichever layout it lies: config, tensors by Hugging Face's names, and a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemiola.weights import audiocraft, hub, keys


@dataclass(frozen=True, eq=False)
class Content:
    """What a checkpoint holds: the values of a config.json, the tensors, and where its tokenizer.json would be."""

    values: dict[str, Any]
    tensors: dict[str, Any]
    tokenizer: Path


def read(folder: Path, backend: str, *, allow_pickle: bool = False) -> Content:
    """Read a folder that `hub.locate` found; the tensors are arrays of `backend`, in the dtype of the file.

    Raises WeightsError for what is missing, damaged, or a pickle without `allow_pickle`.
    """
    if not hub.is_audiocraft(folder):
        values = keys.json_of(folder / hub.CONFIG)
        return Content(values, keys.read(folder, backend, allow_pickle=allow_pickle), folder)
    hub.refuse_pickle(folder, allow_pickle)
    values, tensors, tokenizer = audiocraft.read(folder)
    return Content(values, keys.in_arrays_of(backend, tensors), tokenizer)
