"""`hemiola decode`: codes back to a sound file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from hemiola.cli import options, screen
from hemiola.errors import InputError


def decode(
    file: Annotated[Path, Argument(metavar="CODES", help="What hemiola encode wrote.", show_default=False)],
    output: options.Output = None,
    model: Annotated[str | None, Option(help="Another codec than the one that the file names.")] = None,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Turn codes back into sound, exact to the sample."""
    from hemiola.audio import io
    from hemiola.audio.audio import Audio
    from hemiola.cli import checkpoints, naming
    from hemiola.codec import codes
    from hemiola.codec.model import EncodecModel

    path = output or Path(file.stem + naming.DEFAULT_FORMAT)
    io.check_destination(path, force=force)
    found = codes.load(file)
    name = model or checkpoints.name_of(found.model, found.revision)
    codec = EncodecModel.from_pretrained(
        checkpoints.found(name, allow_pickle).folder, backend=backend, device=device, allow_pickle=allow_pickle
    )
    if (codec.sampling_rate, codec.channels) != (found.sampling_rate, found.channels):
        raise InputError(
            f"{file} is of a codec at {found.sampling_rate} Hz with {found.channels} channel(s), "
            f"{name} has {codec.sampling_rate} Hz and {codec.channels}: leave out --model"
        )
    audio = Audio(codec.decode(found.encoded), codec.sampling_rate)
    saved = audio.save(path, force=force)
    screen.written(saved.path)
    screen.note(f"  {audio.length:,} samples, {screen.shown(audio.seconds)}")
    if saved.gain_db:
        screen.note(f"  turned down by {-saved.gain_db:.1f} dB, for {saved.encoding} would have clipped")
