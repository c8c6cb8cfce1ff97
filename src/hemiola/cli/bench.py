"""`hemiola bench generate | codec | train`: how fast it is beside transformers: random weights, one run, turns."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from hemiola.cli import options, screen
from hemiola.errors import BackendError, InputError
from hemiola.timebase import exact_seconds

app = typer.Typer(
    help="Measure speed beside transformers: random weights, one run, turns, medians.", no_args_is_help=True
)

DTYPES = ("float32", "bfloat16", "float16")
Size = Annotated[str, Option(help="sketch, small, medium or large.")]
Rounds = Annotated[int, Option(min=1, max=1000, help="Turns that every contender takes.")]
Report = Annotated[Path | None, Option("-o", "--output", help="A .json for the figures; else they go to stdout.")]


@app.command()
def generate(
    size: Size = "small",
    batch: Annotated[int, Option(min=1, max=256, help="Prompts side by side.")] = 1,
    steps: Annotated[int, Option(min=5, max=3000, help="Steps a turn.")] = 50,
    rounds: Rounds = 5,
    dtype: Annotated[list[str] | None, Option(help="Ours; again for more. [default: float32 bfloat16 int8]")] = None,
    against: Annotated[list[str] | None, Option(help="Theirs; again for more. [default: float32 bfloat16]")] = None,
    device: Annotated[str, Option(help="cpu or cuda.")] = "cpu",
    output: Report = None,
    force: options.Force = False,
) -> None:
    """Milliseconds a decoding step, frames a second, and the share of the memory's speed."""
    bench = _measuring("generate_torch", size)
    work = bench.Work(size, batch, steps, device)
    ours = _known(dtype or ["float32", "bfloat16", *(["int8"] if device == "cpu" else [])], (*DTYPES, "int8"))
    theirs = _known(against or ["float32", "bfloat16"], DTYPES)
    _run(lambda folder, progress: bench.measure(folder, work, ours, theirs, rounds, progress), output, force)


@app.command()
def codec(
    size: Annotated[str, Option(help="24khz, 32khz or 48khz.")] = "24khz",
    seconds: Annotated[str, Option(help="Of audio.")] = "30",
    rounds: Rounds = 5,
    output: Report = None,
    force: options.Force = False,
) -> None:
    """Seconds to encode and to decode, and the most memory that it takes."""
    bench = _measuring("codec_torch", size)
    try:
        exact = exact_seconds(seconds)
    except ValueError as error:
        raise InputError(f"--seconds: {error}") from None
    if not bench.SIZES[size].timebase.samples(exact):
        raise InputError(f"--seconds {seconds} is no sample at {size}: ask for more")
    _run(lambda folder, progress: bench.measure(folder, size, exact, rounds, progress), output, force)


@app.command()
def train(
    size: Size = "sketch",
    batch: Annotated[int, Option(min=1, max=256, help="Pieces a step.")] = 8,
    frames: Annotated[int, Option(min=1, max=1500, help="Frames a piece.")] = 400,
    dtype: Annotated[str, Option(help="float32 or bfloat16 (mixed precision).")] = "bfloat16",
    rounds: Rounds = 5,
    output: Report = None,
    force: options.Force = False,
) -> None:
    """Seconds a training step of the language model."""
    bench = _measuring("train_torch", size)
    _known([dtype], DTYPES[:2])
    _run(lambda folder, progress: bench.measure(folder, size, batch, frames, dtype, rounds, progress), output, force)


def _measuring(name: str, size: str) -> Any:
    """The module that measures, where what it measures against is installed."""
    import importlib

    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise BackendError(f"hemiola bench needs {package}: pip install {package}")
    module = importlib.import_module(f"hemiola.bench.{name}")
    if size not in module.SIZES:
        raise InputError(f"unknown size '{size}': one of {', '.join(module.SIZES)}")
    return module


def _known(names: list[str], known: tuple[str, ...]) -> list[str]:
    for name in names:
        if name not in known:
            raise InputError(f"unknown dtype '{name}': one of {', '.join(known)}")
    return names


def _run(measure: Callable[[Path, Any], Mapping[str, Any]], output: Path | None, force: bool) -> None:
    from hemiola.audio import writing

    if output is not None:
        writing.check_place(output, force=force)
    with tempfile.TemporaryDirectory() as place, screen.phase_bars() as progress:
        report = measure(Path(place), lambda done, total: progress("turns", done, total))
    _show(report)
    text = json.dumps(report, indent=2) + "\n"
    if output is None:
        typer.echo(text, nl=False)
        return
    with writing.replacing(output, force=force) as temporary:
        temporary.write_text(text, encoding="utf-8")
    screen.written(output)


def _show(report: Mapping[str, Any]) -> None:
    """A line a contender: its figures, and how many times as fast ours is."""
    for name, row in report["rows"].items():
        figures = ", ".join(f"{value:.3g} {key.replace('_', ' ')}" for key, value in row.items() if value is not None)
        times = report["times_as_fast"].get(name, {})
        beside = "".join(f"; {value:.2f}x {rival}" for rival, value in times.items())
        screen.note(f"{name}: {figures}{beside}")
    for dtype, values in report.get("against_float32", {}).items():
        screen.note(
            f"{dtype} against float32: {values['mean_kl_nats']:.2g} nats a token apart, "
            f"the same likeliest token in {values['same_likeliest']:.1%}"
        )
