"""`hemiola decode`: codes back to a sound file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from hemiola.cli import options, results, screen
from hemiola.errors import InputError
from hemiola.timebase import Timebase

if TYPE_CHECKING:
    from hemiola.codec.encoded import Encoded
    from hemiola.codec.model import EncodecModel

PART_FRAMES = 512  # decoded at a time


def decode(
    file: Annotated[Path, Argument(metavar="CODES", help="What hemiola encode wrote.", show_default=False)],
    output: options.Output = None,
    model: Annotated[str | None, Option(help="Another codec than the one that the file names.")] = None,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    sample_rate: results.SampleRate = None,
    fade_in: results.FadeIn = None,
    fade_out: results.FadeOut = None,
    loudness: results.Loudness = None,
    format: results.Format = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Turn codes back into sound, exact to the sample.

    CODES is a .safetensors of `hemiola encode`, or an .ecdc of Meta's encodec without its language model. The sound is
    resampled, then faded, then brought to its loudness, never past full scale.
    """
    from hemiola.audio import io
    from hemiola.audio.audio import Audio
    from hemiola.cli import checkpoints, containers
    from hemiola.codec.model import EncodecModel

    finish = results.finish(sample_rate=sample_rate, fade_in=fade_in, fade_out=fade_out, loudness=loudness)
    path = results.named(output, file.stem, format)
    io.check_destination(path, force=force)
    found = containers.container(file).load(file)
    results.require_fit(finish, path, Timebase(found.sampling_rate, 1).seconds(found.encoded.length))
    name = model or checkpoints.name_of(found.model, found.revision)
    codec = EncodecModel.from_pretrained(
        checkpoints.found(name, allow_pickle).folder, backend=backend, device=device, allow_pickle=allow_pickle
    )
    if (codec.sampling_rate, codec.channels) != (found.sampling_rate, found.channels):
        raise InputError(
            f"{file} is of a codec at {found.sampling_rate} Hz with {found.channels} channel(s), "
            f"{name} has {codec.sampling_rate} Hz and {codec.channels}: leave out --model"
        )
    began = time.perf_counter()
    if not finish.to_dict() and path.suffix.lower() == ".wav":
        _stream(codec, found.encoded, path, force)
        containers.describe(codec, found.encoded, file, time.perf_counter() - began)
        return
    samples = codec.decode(found.encoded)
    took_seconds = time.perf_counter() - began
    finished = finish.apply(Audio(samples, codec.sampling_rate))
    saved = finished.audio.save(path, force=force)
    screen.written(saved.path)
    screen.note(f"  {finished.audio.length:,} samples, {screen.shown(finished.audio.seconds)}")
    containers.describe(codec, found.encoded, file, took_seconds)
    results.describe(finished, finish, saved)


def _stream(codec: EncodecModel, encoded: Encoded, path: Path, force: bool) -> None:
    """Write a float WAV while it is decoded, in memory that does not grow with it: no peak has to be known."""
    from hemiola.audio import io

    codec.check_codes(encoded)
    left = encoded.length
    with io.growing(path, codec.sampling_rate, codec.channels, force=force) as write:
        for block in codec.decode_stream(encoded.parts(PART_FRAMES)):
            write(block[0, :, :left])
            left -= min(left, block.shape[-1])
    screen.written(path)
    seconds = codec.timebase.seconds(encoded.length)
    screen.note(f"  {encoded.length:,} samples, {screen.shown(seconds)}")
