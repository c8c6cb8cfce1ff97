"""A file of prompts: one a line, as plain text or as a JSON object with the fields of a request."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hemiola.cli.records import REQUEST_FIELDS
from hemiola.errors import InputError
from hemiola.request import Request


def read(path: Path, settings: dict[str, Any]) -> list[Request]:
    """A request for every line that is not blank; what a line says goes before `settings`. "-" reads stdin.

    Raises InputError that names the file and the line.
    """
    requests = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            requests.append(Request(**{**settings, **_fields(line.strip())}))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
    if not requests:
        raise InputError(f"{path} holds no prompt: write one a line")
    return requests


def _text(path: Path) -> str:
    try:
        if str(path) == "-":
            return sys.stdin.read()
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8: save it as such") from error


def _fields(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {"prompt": line}
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON ({error}): quote names and texts") from error
    unknown = [name for name in values if name not in REQUEST_FIELDS]
    if unknown:
        raise InputError(f"unknown field '{unknown[0]}': one of {', '.join(REQUEST_FIELDS)}")
    return values
