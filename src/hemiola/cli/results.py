"""What is asked of a result, in any command that makes one: its finish, its format, and what is said about it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from hemiola.cli import screen
from hemiola.errors import InputError

if TYPE_CHECKING:
    from hemiola.audio.finish import Finish, Finished
    from hemiola.audio.io import Saved
    from hemiola.cli.records import Record
    from hemiola.timebase import Seconds

DEFAULT_SUFFIX = ".wav"

SampleRate = Annotated[int | None, Option(help="Of the file, in Hz. [default: the model's]")]
FadeIn = Annotated[str | None, Option(help="Seconds to rise from silence. [default: 0]")]
FadeOut = Annotated[str | None, Option(help="Seconds to fall to silence. [default: 0]")]
Loudness = Annotated[str | None, Option(help="Integrated, in LUFS: -14; or none. [default: none]")]
Format = Annotated[str | None, Option(help="wav, flac, ogg or mp3. [default: as -o ends, or wav]")]


def finish(record: Record | None = None, **given: Any) -> Finish:
    """The finish that options ask for; of those not given the record speaks, where there is one."""
    from hemiola.audio.finish import Finish

    settings = {name: value for name, value in given.items() if value is not None}
    if "loudness" in settings:
        settings["loudness"] = _lufs(settings["loudness"])
    return Finish(**{**(record.finish if record else {}), **settings})


def suffix(output: Path | None, wanted: str | None, record: Record | None = None) -> str:
    """The suffix of a file whose name is to be made or completed; raises InputError when -o and --format disagree."""
    from hemiola.audio.io import FORMATS

    if wanted is None:
        recorded = Path(record.audio).suffix.lower() if record else ""
        return recorded if recorded in FORMATS else DEFAULT_SUFFIX
    found = f".{wanted.lower().removeprefix('.')}"
    if found not in FORMATS:
        raise InputError(f"unknown format '{wanted}': one of {', '.join(each[1:] for each in FORMATS)}")
    if output is not None and not output.is_dir() and output.suffix.lower() not in ("", found):
        raise InputError(f"-o {output} and --format {wanted} do not agree: leave one of them out")
    return found


def named(output: Path | None, stem: str, wanted: str | None) -> Path:
    """The one sound file to write: as -o says, completed by its suffix, or else `stem` in this folder."""
    end = suffix(output, wanted)
    if output is None:
        return Path(stem + end)
    # What exists must be refused under its own name, not completed into another one.
    return output if output.suffix or output.exists() else output.with_suffix(end)


def require_fit(wanted: Finish, path: Path, seconds: Seconds) -> None:
    """Raise InputError now, before long work, for a finish that a piece or the format of its file does not allow."""
    from hemiola.audio.io import check_rate

    wanted.require_room(seconds)
    if wanted.sample_rate is not None:
        check_rate(path, wanted.sample_rate)


def describe(finished: Finished, wanted: Finish, saved: Saved) -> None:
    """Say how loud it has become, and what was turned down."""
    if wanted.loudness is not None and finished.loudness is not None:
        screen.note(f"  {_heard(finished, wanted.loudness)}")
    if saved.gain_db:
        screen.note(f"  turned down by {-saved.gain_db:.1f} dB, for {saved.encoding} would have clipped")


def _lufs(text: str) -> float | None:
    if text.strip().lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"loudness must be a number of LUFS, or none, not '{text}'") from None


def _heard(finished: Finished, wanted: float) -> str:
    if finished.loudness == -math.inf:
        return f"not brought to {wanted:g} LUFS: it is silent, or too quiet to be measured"
    if finished.is_limited:
        return f"{finished.loudness:.1f} LUFS, not {wanted:g}: louder would have clipped"
    return f"{finished.loudness:.1f} LUFS"
