"""`hemiola train codec | musicgen`: train from one YAML file."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from hemiola.cli import screen
from hemiola.errors import BackendError

app = typer.Typer(help="Train a codec or a language model from one YAML file.", no_args_is_help=True)

Config = Annotated[Path, typer.Option("--config", help="The run's YAML file.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Any key of the config, as section.key=value.")]


@app.command()
def codec(config: Config, overrides: Overrides = None, resume: Resume = False) -> None:
    """Train an EnCodec on a folder of audio."""
    values = _module("config").read(config, overrides or [])
    with screen.phase_bars() as progress:
        folder = _module("runs").train_codec(values, resume=resume, progress=progress)
    screen.written(folder)


@app.command()
def musicgen(config: Config, overrides: Overrides = None, resume: Resume = False) -> None:
    """Train a MusicGen on audio with captions.

    A folder of both is read or composed first; the tokens are those of a codec that is trained already.
    """
    values = _module("config").read(config, overrides or [])
    with screen.phase_bars() as progress:
        folder = _module("runs").train_musicgen(values, resume=resume, progress=progress)
    screen.written(folder)


def _module(name: str) -> ModuleType:
    """A module of `hemiola.train`, where what it needs is installed."""
    try:
        return importlib.import_module(f"hemiola.train.{name}")
    except ModuleNotFoundError as error:
        raise BackendError(f"training needs {error.name}: pip install 'hemiola[train]'") from error
