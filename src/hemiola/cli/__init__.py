"""The command line: one small file a command, each of which imports what is heavy only when it runs."""

from __future__ import annotations

import gc
import io
import shutil
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from hemiola import __version__
from hemiola.cli import bench, blend, decode, encode, evaluate, failures, generate, inspect, models, pairs, train

app = typer.Typer(
    name="hemiola",
    help="Music on neural codecs, exact to the sample.",
    epilog="Paths of the files written go to stdout, one a line; everything else that is said goes to stderr.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: it wraps on a narrow terminal where tables would cut words, and needs no time to load.
    rich_markup_mode=None,
    context_settings={"terminal_width": max(30, min(shutil.get_terminal_size().columns, 100) - 2)},
)
app.command()(generate.generate)
app.command()(encode.encode)
app.command()(decode.decode)
app.command()(inspect.inspect)
app.command()(blend.blend)
app.command()(pairs.pairs)
app.command("eval")(evaluate.evaluate)
app.add_typer(models.app, name="models")
app.add_typer(train.app, name="train")
app.add_typer(bench.app, name="bench")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def everywhere(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; at any place.")] = False,
) -> None:
    """Music on neural codecs, exact to the sample."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 when it was done, else one line on stderr and the code of what went wrong."""
    # Importing torch makes a million objects that stay: looking for garbage all the while takes a tenth of it.
    gc.set_threshold(200_000)
    words = list(sys.argv[1:] if arguments is None else arguments)
    # The hint "run again with --debug" is followed by adding it at the end, where it would belong to the command.
    options_end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:options_end]
    words = [word for word in words[:options_end] if word != "--debug"] + words[options_end:]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path may hold bytes that are no text
    with failures.told(debug):
        code = app(words, prog_name="hemiola", standalone_mode=False)
        sys.stdout.flush()
        gc.freeze()  # the process ends: nobody needs to look through what it leaves
        failures.leave(code or 0)
