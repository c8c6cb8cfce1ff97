"""`hemiola inspect`: a picture of a sound file, and the recipe beside it."""

from __future__ import annotations

import math
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from hemiola.cli import options, screen
from hemiola.errors import InputError, OutputError
from hemiola.timebase import Timebase

if TYPE_CHECKING:
    from hemiola.audio.overview import Overview

SUFFIX = ".png"
# What a piece was made with, beside its request.
MEANS = ("finish", "model", "revision", "quantize", "backend", "device", "dtype", "versions")


def inspect(
    sound: Annotated[Path, Argument(help="A sound file.", show_default=False)],
    output: Annotated[Path | None, Option("-o", "--output", help="The .png to write. [default: named alike]")] = None,
    force: options.Force = False,
) -> None:
    """Draw a sound file, and say how it was made.

    The picture holds waveform, mel spectrogram and chroma. A file of any length is read once, block by block; what is
    longer than the picture is wide shows its extremes and averages. The recipe is that of the .json beside the file.
    """
    from hemiola.audio import io, picture, writing
    from hemiola.audio.overview import survey

    path = output or Path(sound.stem + SUFFIX)
    if path.suffix.lower() != SUFFIX:
        raise OutputError(f"{path} does not name a picture: end it in {SUFFIX}")
    writing.check_place(path, force=force)
    picture.require_matplotlib()
    with io.opened(sound) as reel:
        seconds = Timebase(reel.sample_rate, 1).seconds(reel.length)
        with screen.music_bar(sound.name, seconds) as progress:
            overview = survey(reel, progress)
    facts = _facts(overview)
    with writing.replacing(path, force=force) as temporary:
        picture.draw(overview, temporary, sound.name, ", ".join(facts.values()))
    screen.written(path)
    _show(facts)
    recipe = _recipe(sound)
    if recipe:
        screen.note("")
        _show(recipe)


def _facts(overview: Overview) -> dict[str, str]:
    channels = {1: "mono", 2: "stereo"}.get(overview.channels, f"{overview.channels} channels")
    return {
        "length": f"{screen.shown(overview.seconds)}, {overview.length:,} samples",
        "sound": f"{overview.sample_rate:,} Hz, {channels}",
        "level": f"peak {_db(overview.peak)}, RMS {_db(overview.rms)}",
    }


def _db(level: float) -> str:
    return f"{20 * math.log10(level):.1f} dBFS" if level > 0 else "-inf dBFS"


def _recipe(sound: Path) -> dict[str, Any]:
    """What the record beside a sound says, if there is one, and it is of this very file."""
    from hemiola.cli import naming, records

    path = naming.record_path(sound)
    if not path.is_file():
        return {}
    try:
        record = records.read(path)
    except InputError:
        screen.note(f"note: {path} is beside it, and no record that hemiola generate wrote")
        return {}
    if record.audio != sound.name:
        screen.note(f"note: {path} is the record of {record.audio or 'another file'}, not of {sound.name}")
        return {}
    names = (*records.REQUEST_FIELDS, *MEANS)
    made = {name: record.values[name] for name in names if record.values.get(name) not in (None, "")}
    return {**made, "again": f"hemiola generate --from {path}"}


def _show(values: dict[str, Any]) -> None:
    """A line for each, wrapped where the terminal ends."""
    width = max(24, shutil.get_terminal_size().columns)
    column = min(max(map(len, values)) + 2, width // 2)
    for name, value in values.items():
        shown = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)
        first = f"  {name}".ljust(column + 2)
        screen.note("\n".join(textwrap.wrap(shown, width, initial_indent=first, subsequent_indent=" " * (column + 2))))
