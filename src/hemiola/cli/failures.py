"""What goes wrong, told to a person: one line on stderr, an exit code, and no traceback unless it is asked for."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from hemiola.errors import HemiolaError

INTERRUPTED = 130  # 128 + SIGINT, as shells count


@contextmanager
def told(debug: bool) -> Iterator[None]:
    """Tell of whatever the block raises, and exit with its code; `debug` shows the traceback as well."""
    try:
        yield
    except BrokenPipeError:
        # Whoever was reading has gone, `head` for one; what is still in the buffer must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        leave(INTERRUPTED)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            # Known by its name, so that click need not be imported for it.
            print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
            sys.exit(2)
        if debug:
            traceback.print_exc()
        message, code = explained(error)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(code)


def leave(code: int) -> NoReturn:
    """Exit; an interrupt says what became of the files."""
    if code == INTERRUPTED:
        print("interrupted: files not yet listed were not written", file=sys.stderr)
    sys.exit(code)


def explained(error: Exception) -> tuple[str, int]:
    """The message and the exit code of an error."""
    if isinstance(error, HemiolaError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # a usage error, whichever way typer names its class
        return f"{_one_line(error.format_message())}: see hemiola --help", getattr(error, "exit_code", 2)
    if _is_out_of_memory(error):
        return "out of memory: ask for fewer seconds, fewer pieces at once, or a smaller model", 1
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or _one_line(str(error))}", 1
    return f"unexpected {type(error).__name__} ({_one_line(str(error))}): run again with --debug to see where", 1


def _is_out_of_memory(error: Exception) -> bool:
    name, text = type(error).__name__, str(error)
    return isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in text


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200].rstrip(".")
