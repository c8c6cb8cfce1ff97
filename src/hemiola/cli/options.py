"""Options that several commands share; a flag, a JSON field and a Python argument for one thing are one word."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL_HELP = "sketch (bundled), a folder, or owner/name[@revision] on the hub."

Backend = Annotated[str, typer.Option(help="auto, torch or mlx.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps or gpu.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Read weights that come as a pickle only.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="The file to write.")]
