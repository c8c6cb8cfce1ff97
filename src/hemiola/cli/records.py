"""The JSON beside each piece: all that it takes to make the same piece again, and to know that it is the same."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from hemiola import __version__
from hemiola.audio.finish import Finish
from hemiola.backend import Backend
from hemiola.cli import checkpoints
from hemiola.errors import HemiolaError, InputError
from hemiola.generation import Result
from hemiola.request import SOUNDS, Request
from hemiola.weights.hub import Checkpoint

REQUEST_FIELDS = tuple(field.name for field in fields(Request))
FINISH_FIELDS = frozenset(field.name for field in fields(Finish))
_NEEDED = {"prompt", "seconds", "seed", "model", "codes_sha256"}


@dataclass(frozen=True)
class Record:
    """What a record file holds, as far as it takes to make the piece again."""

    path: Path
    values: dict[str, Any]

    def request_with(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The fields of the request, with `settings` in place of its own.

        Raises InputError for a sound that it names and `settings` does not, when that is gone or has changed.
        """
        own = {name: self.values[name] for name in REQUEST_FIELDS if name in self.values and name not in settings}
        return own | {name: self._found(name) for name in SOUNDS if own.get(name)} | settings

    def _found(self, name: str) -> Path:
        """The very file that was heard: where it was, or beside the record."""
        named = Path(str(self.values[name]))
        for path in (named, self.path.parent / named.name):
            if path.is_file() and _file_sha256(path) == self.values.get(f"{name}_sha256"):
                return path
        raise InputError(f"{named} is gone or has changed since {self.path} was written: put it beside that again")

    @property
    def finish(self) -> dict[str, Any]:
        """The settings of the finish, none when there was none; raises InputError for what is no such thing."""
        values = self.values.get("finish", {})
        if not isinstance(values, dict) or not values.keys() <= FINISH_FIELDS:
            known = ", ".join(sorted(FINISH_FIELDS))
            raise InputError(f"{self.path} holds a finish that is not known: expected some of {known}")
        return values

    @property
    def audio(self) -> str:
        """The name of the sound file."""
        return str(self.values.get("audio", ""))

    @property
    def model(self) -> str:
        """The name under which the model is found again."""
        return checkpoints.name_of(self.values["model"], self.values.get("revision", ""))

    @property
    def machine(self) -> dict[str, Any]:
        """Backend, device and dtype that it was made with, and the bits of a quantised decoder."""
        names = {name: str(self.values[name]) for name in ("backend", "device", "dtype") if name in self.values}
        return names | {name: self.values[name] for name in ("quantize",) if name in self.values}

    def require_same(self, result: Result) -> None:
        """Raise HemiolaError unless the piece came out as it is recorded."""
        if codes_sha256(result.codes) == self.values["codes_sha256"]:
            return
        versions = dict(self.values.get("versions", {}))
        made = ", ".join(
            [*map(str, self.machine.values()), *(f"{name} {version}" for name, version in versions.items())]
        )
        raise HemiolaError(
            f"{self.path} does not come out the same here, so nothing was written (made with {made}): "
            "give its prompt and seed instead of --from to make it anew"
        )


def read(path: Path) -> Record:
    """The record in a file; raises InputError for anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name the .json beside a piece") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a record: name the .json beside a piece, not the piece itself") from error
    if not isinstance(values, dict) or not values.keys() >= _NEEDED:
        raise InputError(f"{path} is not the record of a piece: expected the .json that hemiola generate wrote")
    if not isinstance(values["model"], str) or not isinstance(values.get("revision", ""), str):
        raise InputError(f"{path} names no model: expected the .json that hemiola generate wrote")
    return Record(path, values)


def record(result: Result, finish: Finish, audio: Path, checkpoint: Checkpoint, choice: Backend) -> str:
    """The JSON text that goes beside a piece, whose audio is finished."""
    model, revision = checkpoints.identity(checkpoint)
    values = {
        **result.request.to_dict(),
        **_sounds(result.request),
        "model": model,
        "revision": revision,
        "backend": choice.name,
        "device": choice.device,
        "dtype": choice.dtype,
        **({} if choice.quantize is None else {"quantize": choice.quantize}),
        **({"finish": finish.to_dict()} if finish.to_dict() else {}),
        "audio": audio.name,
        "samples": result.audio.length,
        "sample_rate": result.audio.sample_rate,
        "channels": result.audio.channels,
        "codes_sha256": codes_sha256(result.codes),
        "versions": versions(choice.name),
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _sounds(request: Request) -> dict[str, str]:
    """Where the sounds of a request are, from the root, and what is in the files."""
    paths = {name: Path(path).resolve() for name, path in request.to_dict().items() if name in SOUNDS and path}
    hashes = {f"{name}_sha256": _file_sha256(path) for name, path in paths.items()}
    return {name: str(path) for name, path in paths.items()} | hashes


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def codes_sha256(codes: np.ndarray) -> str:
    """SHA-256 of codes [codebooks, frames] as little-endian int32, row by row, with their shape before them."""
    return hashlib.sha256(repr(codes.shape).encode() + codes.astype("<i4").tobytes()).hexdigest()


def versions(backend: str) -> dict[str, str]:
    """What made it: the versions of this package, its backend, numpy and Python."""
    return {
        "hemiola": __version__,
        backend: importlib.metadata.version(backend),
        "numpy": importlib.metadata.version("numpy"),
        "python": platform.python_version(),
    }
