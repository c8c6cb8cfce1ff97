"""`hemiola encode`: a sound file to codes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from hemiola.cli import options, screen

if TYPE_CHECKING:
    import numpy as np

    from hemiola.audio.io import Reel
    from hemiola.codec.encoded import Encoded
    from hemiola.codec.model import EncodecModel

BLOCK_SAMPLES = 1 << 18  # of the file, read at a time


def encode(
    sound: Annotated[Path, Argument(help="A sound file.", show_default=False)],
    output: options.Output = None,
    model: Annotated[
        str | None, Option(help=f"{options.MODEL_HELP} [default: sketch; for .ecdc facebook/encodec_24khz]")
    ] = None,
    bandwidth: Annotated[float | None, Option(help="In kbps, one of the codec's. [default: the highest]")] = None,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Turn a sound file into a codec's codes.

    The codes go to a safetensors file with all that `hemiola decode` needs, or with -o NAME.ecdc to Meta's container,
    which holds codes of EnCodec at 24 and 48 kHz. What the codec does not take as it is, is mixed and resampled first.
    """
    from hemiola.audio import io, writing
    from hemiola.cli import checkpoints, containers
    from hemiola.codec import codes
    from hemiola.codec.model import EncodecModel

    path = output or Path(sound.stem + codes.EXTENSION)
    writing.check_place(path, force=force)
    with io.opened(sound) as reel:
        checkpoint = checkpoints.found(model or containers.default_model(path), allow_pickle)
        codec = EncodecModel.from_pretrained(
            checkpoint.folder, backend=backend, device=device, allow_pickle=allow_pickle
        )
        containers.check_codec(path, codec, checkpoint)
        began = time.perf_counter()
        encoded = _encoded(reel, codec, bandwidth)
    took_seconds = time.perf_counter() - began
    found = codes.Codes(encoded, *checkpoints.identity(checkpoint), codec.sampling_rate, codec.channels)
    containers.container(path).save(path, found, force=force)
    screen.written(path)
    containers.describe(codec, encoded, path, took_seconds)


def _encoded(reel: Reel, codec: EncodecModel, bandwidth: float | None) -> Encoded:
    """A sound file's codes, however long it is, in memory that holds a few blocks; what has to change is said."""
    from hemiola.audio.audio import Audio
    from hemiola.audio.resample import resampled
    from hemiola.codec.encoded import Encoded
    from hemiola.errors import AudioError

    if reel.channels != codec.channels:
        screen.note(f"  mixed: {reel.channels} channels to {codec.channels}")
    if reel.sample_rate != codec.sampling_rate:
        screen.note(f"  resampled: {reel.sample_rate:,} to {codec.sampling_rate:,} Hz")
    length = 0

    def heard() -> Iterator[np.ndarray]:
        nonlocal length
        for block in resampled(mixed, reel.sample_rate, codec.sampling_rate):
            length += block.shape[1]
            if block.shape[1]:
                yield block

    mixed = (Audio(block, reel.sample_rate).to_channels(codec.channels).samples for block in reel.blocks(BLOCK_SAMPLES))
    parts = codec.encode_stream(heard(), bandwidth)
    encoded = Encoded.of(parts, lambda: length, chunked=codec.chunk_length is not None)
    if not length:
        raise AudioError(f"{reel.path} holds no samples: export it again")
    return encoded
