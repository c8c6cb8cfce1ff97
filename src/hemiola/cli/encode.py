"""`hemiola encode`: a sound file to codes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from hemiola.cli import options, screen

if TYPE_CHECKING:
    from hemiola.audio.audio import Audio
    from hemiola.codec.model import EncodecModel


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
    from hemiola.audio import writing
    from hemiola.audio.audio import Audio
    from hemiola.cli import checkpoints, containers
    from hemiola.codec import codes
    from hemiola.codec.model import EncodecModel

    path = output or Path(sound.stem + codes.EXTENSION)
    writing.check_place(path, force=force)
    audio = Audio.load(sound)
    checkpoint = checkpoints.found(model or containers.default_model(path), allow_pickle)
    codec = EncodecModel.from_pretrained(checkpoint.folder, backend=backend, device=device, allow_pickle=allow_pickle)
    containers.check_codec(path, codec, checkpoint)
    audio = _fitted(audio, codec)
    began = time.perf_counter()
    encoded = codec.encode(audio.samples, bandwidth)
    took_seconds = time.perf_counter() - began
    found = codes.Codes(encoded, *checkpoints.identity(checkpoint), codec.sampling_rate, codec.channels)
    containers.container(path).save(path, found, force=force)
    screen.written(path)
    containers.describe(codec, encoded, path, took_seconds)


def _fitted(audio: Audio, codec: EncodecModel) -> Audio:
    """The audio as the codec takes it; what has to change is said."""
    if audio.channels != codec.channels:
        screen.note(f"  mixed: {audio.channels} channels to {codec.channels}")
    if audio.sample_rate != codec.sampling_rate:
        screen.note(f"  resampled: {audio.sample_rate:,} to {codec.sampling_rate:,} Hz")
    return audio.to_channels(codec.channels).resample(codec.sampling_rate)
