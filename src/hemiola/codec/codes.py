"""Codes in a file: what a codec made of audio, in safetensors, with the codec that decodes it named beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hemiola.audio.writing import replacing
from hemiola.codec.encoded import Encoded
from hemiola.errors import InputError

EXTENSION = ".safetensors"
FORMAT = "hemiola-codes-1"


@dataclass(frozen=True, eq=False)
class Codes:
    """One piece of audio as codes, and what it takes to decode it: the codec by name and revision."""

    encoded: Encoded
    model: str
    revision: str
    sampling_rate: int
    channels: int


def save(path: str | Path, codes: Codes, *, force: bool = False) -> None:
    """Write one piece, whole or not at all: `codes.N` int32 [codebooks, frames] and `scale.N` float32 [1] for chunk N.

    Raises InputError for more than one piece, OutputError for a file that exists or cannot be written.
    """
    from safetensors.numpy import save as serialized

    encoded = codes.encoded
    if any(len(chunk) != 1 for chunk in encoded.chunks):
        raise InputError("a file of codes holds one piece: save the pieces of a batch one by one")
    tensors = {f"codes.{index}": chunk[0].astype(np.int32) for index, chunk in enumerate(encoded.chunks)}
    tensors |= {f"scale.{index}": scale[0].astype(np.float32) for index, scale in enumerate(encoded.scales or ())}
    facts = {
        "format": FORMAT,
        "model": codes.model,
        "revision": codes.revision,
        "sampling_rate": str(codes.sampling_rate),
        "channels": str(codes.channels),
        "length": str(encoded.length),
    }
    with replacing(path, force=force) as temporary:
        temporary.write_bytes(serialized(tensors, metadata=facts))


def load(path: str | Path) -> Codes:
    """Read what `save` wrote; raises InputError for a file that is damaged, or is something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            if facts.get("format") != FORMAT:
                raise InputError(f"{path} holds no codes that hemiola encode wrote: name one that does")
            # An open safetensors file has keys() and cannot be iterated.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged, cut short, or not in safetensors ({error}): encode it again") from error
    try:
        return _codes(facts, tensors)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} lacks a part ({error}): encode it again") from error


def _codes(facts: dict[str, str], tensors: dict[str, np.ndarray]) -> Codes:
    chunks = tuple(
        tensors[f"codes.{index}"][None] for index in range(sum(name.startswith("codes.") for name in tensors))
    )
    scales = tuple(
        tensors[f"scale.{index}"][None] for index in range(sum(name.startswith("scale.") for name in tensors))
    )
    length, rate, channels = (int(facts[name]) for name in ("length", "sampling_rate", "channels"))
    if min(length, rate, channels) < 1:
        raise ValueError("length, sampling_rate and channels are 1 or more")
    encoded = Encoded(chunks, scales or None, length, batched=False)
    return Codes(encoded, facts["model"], facts["revision"], rate, channels)
