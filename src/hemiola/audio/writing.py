"""Where files are written, of whatever kind: they appear whole or not at all, and nothing is replaced unasked."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hemiola.errors import OutputError


@contextmanager
def replacing(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Lend a temporary path in the same folder, and move it to `path` when the block ends well; else nothing is left.

    An existing file is only replaced when `force` is set. Raises OutputError for that, and for a folder that is
    missing or may not be written.
    """
    path = Path(path)
    temporary = path.parent / f".hemiola-{secrets.token_hex(4)}{path.suffix}"
    try:
        _refuse_place(path, force)
        mode = _mode_of_new(temporary)
        yield temporary
        _refuse_place(path, force)
        # What a library wrote may be its owner's alone. Where modes cannot be set, the work is not lost for that.
        with suppress(OSError):
            temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        # After success there is nothing of that name; after anything else, Ctrl-C included, it must not stay.
        temporary.unlink(missing_ok=True)


def check_place(path: str | Path, *, force: bool = False) -> None:
    """Raise OutputError now for what `replacing` would refuse later: after long work, later is late."""
    _refuse_place(Path(path), force)


def _mode_of_new(path: Path) -> int:
    """The mode that a new file gets there; nothing is left. The umask itself could only be read by changing it."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return mode


def _refuse_place(path: Path, force: bool) -> None:
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist: create it first")
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is not a regular file: name another")
    if path.exists() and not force:
        raise OutputError(f"{path} exists: pass --force to replace it, or name another")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} may not be written: check its permissions")
