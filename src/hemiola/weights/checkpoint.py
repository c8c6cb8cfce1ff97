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


def read_codec(folder: Path, backend: str, *, allow_pickle: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Config and tensors of the codec in a folder, be it alone there or part of a model. Raises as `read` does."""
    if hub.is_audiocraft(folder):
        # No text encoder has to be found, or fetched, for a codec.
        hub.refuse_pickle(folder, allow_pickle)
        values, tensors = audiocraft.read_codec(folder)
        return values, keys.in_arrays_of(backend, tensors)
    content = read(folder, backend, allow_pickle=allow_pickle)
    if "audio_encoder" not in content.values:
        return content.values, content.tensors
    return content.values["audio_encoder"], keys.under(content.tensors, "audio_encoder.")
