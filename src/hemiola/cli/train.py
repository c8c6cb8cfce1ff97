"""`hemiola train codec | musicgen | blend`: train from one YAML file."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from hemiola.cli import screen
from hemiola.errors import BackendError

app = typer.Typer(help="Train a codec, a language model or a blend from one YAML file.", no_args_is_help=True)

Config = Annotated[Path, typer.Option("--config", help="The run's YAML file.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")]
AutoResume = Annotated[
    bool,
    typer.Option("--auto-resume", help="Go on where there is a checkpoint, else begin: for requeued jobs."),
]
LoraRank = Annotated[
    int | None, typer.Option("--lora-rank", help="Let only matrices of this rank beside the model's own learn.")
]
Overrides = Annotated[list[str] | None, typer.Argument(help="Any key of the config, as section.key=value.")]

Words = Annotated[list[str] | None, typer.Argument(help="audit, and any key of the config, as section.key=value.")]


@app.command()
def codec(config: Config, overrides: Overrides = None, resume: Resume = False, auto_resume: AutoResume = False) -> None:
    """Train an EnCodec on a folder of audio."""
    _train("train_codec", config, overrides, resume, auto_resume)


@app.command()
def musicgen(
    config: Config,
    overrides: Overrides = None,
    lora_rank: LoraRank = None,
    resume: Resume = False,
    auto_resume: AutoResume = False,
) -> None:
    """Train a MusicGen on audio with captions, or go on from one that is trained.

    A folder of both is read or composed first; the tokens are those of a codec that is trained already.
    """
    if lora_rank is not None:
        overrides = [*(overrides or []), f"recipe.lora_rank={lora_rank}"]
    _train("train_musicgen", config, overrides, resume, auto_resume)


@app.command()
def blend(config: Config, words: Words = None, resume: Resume = False, auto_resume: AutoResume = False) -> None:
    """Train a blend on pairs of recordings.

    `hemiola train blend audit --config ...` trains nothing: it shows what each loss moves, and whether that is as it
    should be.
    """
    if words and words[0] == "audit":
        _audit(_module("config").read(config, words[1:]))
    else:
        _train("train_blend", config, words, resume, auto_resume, home="blend_runs")


def _audit(values: dict[str, Any]) -> None:
    """A row a loss, a column for all that it can move; exits with 1 where one moves what it should not, or fails to."""
    audit = _module("audit")
    with screen.phase_bars() as progress:
        rows = audit.audit(_module("blend_runs").assemble(values, progress=progress))
    screen.table(*audit.table(rows))
    wanting = [row for row in rows if row.wanting]
    for row in wanting:
        screen.note(f"{row.loss}: not as it should be in {', '.join(row.wanting)}")
    if wanting:
        raise typer.Exit(1)


def _train(
    what: str,
    config: Path,
    overrides: list[str] | None,
    resume: bool,
    auto_resume: bool,
    home: str = "runs",
) -> None:
    """Run what trains in `hemiola.train` and name the folder that it wrote; of many processes, one does."""
    values = _module("config").read(config, overrides or [])
    resume = resume or (auto_resume and _has_checkpoint(values))
    with screen.phase_bars() as progress:
        folder = getattr(_module(home), what)(values, resume=resume, progress=progress)
    if _module("ranks").leads():
        screen.written(folder)


def _has_checkpoint(config: dict[str, Any]) -> bool:
    run = config.get("run")
    folder = run.get("folder") if isinstance(run, dict) else None
    return isinstance(folder, str) and _module("checkpoints").resumable(folder)


def _module(name: str) -> ModuleType:
    """A module of `hemiola.train`, where what it needs is installed."""
    try:
        return importlib.import_module(f"hemiola.train.{name}")
    except ModuleNotFoundError as error:
        raise BackendError(f"training needs {error.name}: pip install 'hemiola[train]'") from error
