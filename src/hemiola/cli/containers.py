"""Files of codes as commands know them: the suffix says whether it is safetensors or Meta's .ecdc."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from hemiola.cli import screen

if TYPE_CHECKING:
    from hemiola.codec.encoded import Encoded
    from hemiola.codec.model import EncodecModel
    from hemiola.weights.hub import Checkpoint

DEFAULT_MODEL = "sketch"


def container(path: Path) -> ModuleType:
    """The module whose `save` and `load` know files of this name."""
    from hemiola.codec import codes, ecdc

    return ecdc if path.suffix.lower() == ecdc.EXTENSION else codes


def default_model(path: Path) -> str:
    """The codec for a file of this name when none is asked for: .ecdc holds codes of Meta's only."""
    from hemiola.codec import ecdc

    return ecdc.PUBLISHER + next(iter(ecdc.MODELS)) if container(path) is ecdc else DEFAULT_MODEL


def check_codec(path: Path, codec: EncodecModel, checkpoint: Checkpoint) -> None:
    """Raise InputError for a codec whose codes a file of this name cannot hold; say what the file will not tell."""
    from hemiola.codec import ecdc

    if container(path) is not ecdc:
        return
    name = ecdc.PUBLISHER + ecdc.model_of(codec.config)
    if checkpoint.name.partition("@")[0] != name:
        screen.note(f"note: the file can only name {name}: decode it with --model {checkpoint.name}")


def describe(codec: EncodecModel, encoded: Encoded, path: Path, took_seconds: float) -> None:
    """Say what a file of codes holds, its bandwidth and size, and how fast the codec was."""
    seconds = codec.timebase.seconds(encoded.length)
    frames, codebooks = sum(chunk.shape[-1] for chunk in encoded.chunks), encoded.chunks[0].shape[-2]
    screen.note(f"  {frames:,} frames of {codebooks} codebooks, {screen.shown(seconds)}")
    size, speed = screen.shown_bytes(path.stat().st_size), float(seconds) / took_seconds
    screen.note(f"  {float(codec.config.kbps_of(codebooks)):g} kbps, {size}, {speed:.1f}x real time")
