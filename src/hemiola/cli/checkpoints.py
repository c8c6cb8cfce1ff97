"""Checkpoints as commands find them: fetched with a bar, and with the licence shown when they arrive."""

from __future__ import annotations

from hemiola.cli import screen
from hemiola.weights import hub


def found(name: str, allow_pickle: bool = False) -> hub.Checkpoint:
    """The checkpoint of that name, fetched first where it is not on this disk."""
    with screen.download_bar(name) as progress:
        checkpoint = hub.locate(name, allow_pickle=allow_pickle, progress=progress)
    if checkpoint.downloaded:
        screen.note(f"{name} is published under {licence(checkpoint)}: using it means keeping to that")
    return checkpoint


def licence(checkpoint: hub.Checkpoint) -> str:
    """The licence for reading, with what matters most about it."""
    stated = checkpoint.licence or "a licence that its publisher does not state"
    return f"{stated} (no commercial use)" if "-nc" in stated.lower() else stated


def identity(checkpoint: hub.Checkpoint) -> tuple[str, str]:
    """Name and revision under which the very same weights are found again; a folder is named from the root."""
    if checkpoint.bundled:
        return checkpoint.name, ""
    if checkpoint.revision:
        return checkpoint.name.partition("@")[0], checkpoint.revision
    return str(checkpoint.folder.resolve()), ""


def name_of(model: str, revision: str) -> str:
    """The name that `found` takes, from what `identity` gave."""
    return f"{model}@{revision}" if revision else model
