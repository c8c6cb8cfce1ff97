"""`hemiola blend`: two recordings in, new music out."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from hemiola import __version__
from hemiola.cli import options, screen

if TYPE_CHECKING:
    from hemiola.audio.audio import Audio
    from hemiola.blend.model import Blend, Rendered
    from hemiola.blend.passage import Span
    from hemiola.timebase import Timebase

RECORD = "blend.json"


def blend(
    input: Annotated[Path, Argument(help="A sound file, heard for its rhythm first.", show_default=False)],
    target: Annotated[Path, Argument(help="A sound file, heard for its harmony first.", show_default=False)],
    checkpoint: Annotated[Path, Option(help="The folder of a trained blend.", show_default=False)],
    output: Annotated[Path, Option("-o", "--output", help="The folder to write into.")] = Path("blend"),
    input_start: Annotated[str, Option(help="Seconds into the input from which on it is heard.")] = "0",
    target_start: Annotated[str, Option(help="Seconds into the target from which on it is heard.")] = "0",
    seed: Annotated[int | None, Option(min=0, help="Draw the windows. [default: take the best]")] = None,
    codec: Annotated[str | None, Option(help="Where the codec lies. [default: as the checkpoint says]")] = None,
    pictures: Annotated[bool, Option("--pictures", help="Draw each passage and its windows as a PNG.")] = False,
    device: options.Device = "auto",
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Compose passages that draw on two recordings.

    Both have to be as long as the model hears, 24 s, from their starts on. The passages go to blend-1.wav and on, and
    what they were made from to blend.json.
    """
    from hemiola.audio import io
    from hemiola.audio.audio import Audio
    from hemiola.audio.picture import require_matplotlib
    from hemiola.blend.model import Blend

    if pictures:
        require_matplotlib()
    sounds = Audio.load(input), Audio.load(target)
    model = Blend.from_pretrained(checkpoint, codec=codec, device=device, allow_pickle=allow_pickle)
    clips = model.clips(*sounds, input_start=input_start, target_start=target_start)
    # Only now: nothing is left behind of recordings that are too short.
    paths = _places(output, model.config.pairs, pictures, force)
    made = model.compose(clips, seed=seed)
    for path, passage in zip(paths, made.passages):
        io.write(path, passage.output, passage.sample_rate, force=force)
        screen.written(path)
    if pictures:
        _draw(paths, made)
    asked = {
        "input_start": input_start,
        "target_start": target_start,
        "seed": seed,
        "codec": codec or model.config.codec,
    }
    _record(output / RECORD, _told(model, sounds, checkpoint, paths, made, asked), force)
    _describe(made)


def _places(folder: Path, count: int, pictures: bool, force: bool) -> list[Path]:
    """Where the passages go; raises OutputError now for what would stop the writing later."""
    from hemiola.audio import io, writing
    from hemiola.errors import OutputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be a folder to write into: {error.strerror}") from None
    paths = [folder / f"blend-{number + 1}.wav" for number in range(count)]
    for path in paths:
        io.check_destination(path, force=force)
        if pictures:
            writing.check_place(path.with_suffix(".png"), force=force)
    writing.check_place(folder / RECORD, force=force)
    return paths


def _draw(paths: list[Path], made: Rendered) -> None:
    from hemiola.audio.overview import glance
    from hemiola.audio.writing import replacing
    from hemiola.blend import picture

    rate = made.passages[0].sample_rate
    clips = glance(made.input, rate), glance(made.target, rate)
    for number, path in enumerate(paths):
        with replacing(path.with_suffix(".png"), force=True) as temporary:
            picture.draw(temporary, path.stem, clips, made.passages, number)
        screen.written(path.with_suffix(".png"))


def _window(span: Span, clock: Timebase) -> dict[str, float]:
    ends = {f"{end}_samples": clock.samples(getattr(span, f"{end}_seconds")) for end in ("start", "end")}
    return {**asdict(span), **ends}


def _told(
    model: Blend,
    sounds: tuple[Audio, Audio],
    checkpoint: Path,
    paths: list[Path],
    made: Rendered,
    asked: dict[str, Any],
) -> dict[str, Any]:
    """What there is to tell of a blend: all that it takes to make the same again."""
    clock = model.timebase
    rows = [
        {
            "file": path.name,
            "windows": {"input": _window(passage.input, clock), "target": _window(passage.target, clock)},
            "scores": passage.scores,
        }
        for path, passage in zip(paths, made.passages)
    ]
    return {
        "input": str(sounds[0].source),
        "target": str(sounds[1].source),
        **asked,
        "checkpoint": str(checkpoint),
        "sample_rate": clock.sample_rate,
        "samples": model.output_samples,
        "tonality": {"input": made.input_strength, "target": made.target_strength},
        "passages": rows,
        "versions": {"hemiola": __version__, "torch": version("torch")},
    }


def _record(path: Path, values: dict[str, Any], force: bool) -> None:
    from hemiola.audio.writing import replacing

    with replacing(path, force=force) as temporary:
        temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")
    screen.written(path)


def _describe(made: Rendered) -> None:
    for number, each in enumerate(made.passages, 1):
        spans = {"input": each.input, "target": each.target}
        shown = (f"{name} from {span.start_seconds:.2f} s, x{span.ratio:.2f}" for name, span in spans.items())
        verdict = f"; copies: {each.scores['copies']}" if each.scores["copies"] else ""
        screen.note(f"  {number}: {'; '.join(shown)}{verdict}")
