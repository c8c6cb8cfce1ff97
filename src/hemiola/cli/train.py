"""`hemiola train codec | musicgen`: train from one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train a codec or a language model from one YAML file.", no_args_is_help=True)

Config = Annotated[Path, typer.Option("--config", help="The run's YAML file.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Any key of the config, as section.key=value.")]


@app.command()
def codec(config: Config, overrides: Overrides = None, resume: Resume = False) -> None:
    """Train an EnCodec on a folder of audio."""
    from hemiola.train import config as configs
    from hemiola.train.runs import train_codec

    _done(train_codec(configs.read(config, overrides or []), resume=resume))


@app.command()
def musicgen(config: Config, overrides: Overrides = None, resume: Resume = False) -> None:
    """Train a MusicGen on a folder of audio with captions, over a trained codec."""
    from hemiola.train import config as configs
    from hemiola.train.runs import train_musicgen

    _done(train_musicgen(configs.read(config, overrides or []), resume=resume))


def _done(folder: Path) -> None:
    typer.echo(f"trained: {folder}")
