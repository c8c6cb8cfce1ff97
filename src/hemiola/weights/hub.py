"""Checkpoints by name: bundled with the package, a folder, or the Hugging Face hub; fetched once, then offline."""

from __future__ import annotations

import difflib
import importlib.resources
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemiola.errors import DownloadError, WeightsError
from hemiola.weights import keys

BUNDLED = ("sketch", "sketch-24khz")
PUBLISHED = (
    *(f"facebook/encodec_{rate}khz" for rate in (24, 32, 48)),
    *(f"facebook/musicgen-{size}" for size in ("small", "medium", "large")),
    *(f"facebook/musicgen-stereo-{size}" for size in ("small", "medium", "large")),
    *(f"facebook/musicgen-{kind}melody{size}" for kind in ("", "stereo-") for size in ("", "-large")),
)
CONFIG = "config.json"

# Written beside the files once all of them are there: what stands in a folder without it may be half a download.
RECEIPT = ".hemiola.json"
_AGAIN = "run it again; files that are already complete are kept"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_SMALL_FILE = re.compile(
    r"config\.json|generation_config\.json|preprocessor_config\.json|special_tokens_map\.json|spiece\.model|tokenizer.*\.json"
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder that is complete: its files are in Hugging Face's layout.

    `revision` is the hub's commit, or empty. `licence` is what the publisher states, where known; `downloaded` says
    that this very call fetched it, so that the licence can be shown once.
    """

    name: str
    revision: str
    folder: Path
    bundled: bool = False
    licence: str | None = None
    downloaded: bool = False


def locate(name: str | Path, *, allow_pickle: bool = False, progress: Progress | None = None) -> Checkpoint:
    """Find a checkpoint: a bundled name, an existing folder, or `owner/name[@revision]`, fetched if it is not here yet.

    `progress(done, total)` is called with bytes while fetching, maybe from another thread. What has been fetched is
    used without asking the network again. Raises WeightsError for a name that is unknown or a folder that is not
    complete, and DownloadError when fetching failed.
    """
    text = str(name)
    if text in BUNDLED and isinstance(name, str):
        return _bundled(text)
    path = Path(name).expanduser()
    if text and path.is_dir():
        _refuse_incomplete(path, allow_pickle)
        return Checkpoint(text, "", path)
    if path.is_file():
        raise WeightsError(f"{path} is a file: name the folder that holds it together with its {CONFIG}")
    if isinstance(name, str) and _HUB_NAME.fullmatch(text):
        return _on_hub(text, allow_pickle, progress)
    raise WeightsError(f"there is no model and no folder '{name}'{_suggestion(text)}")


def is_audiocraft(folder: Path) -> bool:
    """Whether a folder is in audiocraft's layout, and not in Hugging Face's as well."""
    return not (folder / CONFIG).is_file() and all((folder / file).is_file() for file in keys.AUDIOCRAFT)


def refuse_pickle(name: object, allow_pickle: bool) -> None:
    """Raise WeightsError for a checkpoint in audiocraft's layout, unless pickles are allowed."""
    if not allow_pickle:
        raise WeightsError(f"{name} is in audiocraft's layout, which is pickles: pass --allow-pickle if you trust it")


def names() -> tuple[str, ...]:
    """Names that `locate` knows: the bundled ones first, then those published on the hub that fit this package."""
    return BUNDLED + PUBLISHED


def cached() -> list[Checkpoint]:
    """The checkpoints from the hub that are complete on this disk, sorted by name; no network."""
    from huggingface_hub import constants

    found = []
    for receipt in Path(constants.HF_HUB_CACHE).glob(f"models--*/snapshots/*/{RECEIPT}"):
        folder = receipt.parent
        content = _receipt(folder)
        if content is not None:
            name = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
            found.append(Checkpoint(name, folder.name, folder, licence=content["licence"]))
    return sorted(found, key=lambda each: (each.name, each.revision))


def _bundled(name: str) -> Checkpoint:
    folder = Path(str(importlib.resources.files("hemiola"))) / "assets" / name
    if not folder.is_dir():
        raise WeightsError(f"the bundled model '{name}' is not in this installation: reinstall hemiola")
    _refuse_incomplete(folder, allow_pickle=False)
    return Checkpoint(name, "", folder, bundled=True, licence="apache-2.0")


def _refuse_incomplete(folder: Path, allow_pickle: bool) -> None:
    if is_audiocraft(folder):
        refuse_pickle(folder, allow_pickle)
        return
    if not (folder / CONFIG).is_file():
        raise WeightsError(f"{folder} is not a checkpoint in Hugging Face's layout: it has no {CONFIG}")
    keys.files(folder, allow_pickle=allow_pickle)


def _on_hub(name: str, allow_pickle: bool, progress: Progress | None) -> Checkpoint:
    from huggingface_hub import HfApi

    repo, _, revision = name.partition("@")
    revision = revision or "main"
    folder = _snapshot(repo, revision)
    receipt = _receipt(folder) if folder else None
    if folder and receipt and _is_complete(folder, allow_pickle):
        return Checkpoint(name, folder.name, folder, licence=receipt["licence"])
    try:
        info = HfApi().model_info(repo, revision=revision)
    except Exception as error:
        # Without the network, what another program fetched will do, if nothing is missing from it.
        failure = _explained(name, error)
        if folder and isinstance(failure, DownloadError) and _is_complete(folder, allow_pickle):
            return Checkpoint(name, folder.name, folder, licence=_licence(repo, None))
        raise failure from error
    wanted = _wanted(name, [each.rfilename for each in info.siblings or ()], allow_pickle)
    licence = _licence(repo, info.card_data)
    folder = _fetch(name, wanted, progress)
    _refuse_incomplete(folder, allow_pickle)
    _write_receipt(folder, {"files": wanted, "licence": licence})
    return Checkpoint(name, folder.name, folder, licence=licence, downloaded=True)


def _fetch(name: str, wanted: list[str], progress: Progress | None) -> Path:
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    try:
        folder = Path(
            snapshot_download(repo, revision=revision or "main", allow_patterns=wanted, tqdm_class=_bar(progress))
        )
    except Exception as error:
        # The hub's client raises anything from OSError to its HTTP library's own errors.
        raise _explained(name, error) from error
    lost = [file for file in wanted if not (folder / file).is_file()]
    if lost:
        raise DownloadError(f"{name} was fetched in part, {', '.join(lost)} not there: {_AGAIN}")
    return folder


def _wanted(name: str, available: Iterable[str], allow_pickle: bool) -> list[str]:
    """The files to fetch, and no others: a repository may hold the same weights three times."""
    files = set(available)
    if CONFIG not in files and files.issuperset(keys.AUDIOCRAFT):
        refuse_pickle(name, allow_pickle)
        return sorted(keys.AUDIOCRAFT)
    if CONFIG not in files:
        raise WeightsError(f"{name} has no {CONFIG}: it is not a checkpoint in Hugging Face's layout")
    small = {file for file in files if _SMALL_FILE.fullmatch(file)}
    for single, index, shard in (
        (keys.WEIGHTS, keys.INDEX, r"model-\d+-of-\d+\.safetensors"),
        (keys.PICKLE, keys.PICKLE_INDEX, r"pytorch_model-\d+-of-\d+\.bin"),
    ):
        if single not in files and index not in files:
            continue
        if single == keys.PICKLE and not allow_pickle:
            raise WeightsError(f"{name} has its weights as a pickle only: pass --allow-pickle if you trust its source")
        weights = {single} if single in files else {index, *(file for file in files if re.fullmatch(shard, file))}
        return sorted(small | weights)
    raise WeightsError(f"{name} holds no weights that can be read: expected {keys.WEIGHTS} or {keys.INDEX}")


def _snapshot(repo: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        places = [try_to_load_from_cache(repo, file, revision=revision) for file in (CONFIG, *keys.AUDIOCRAFT)]
    except ValueError as error:
        raise WeightsError(f"'{repo}' cannot be a name on the hub{_suggestion(repo)}") from error
    return next((Path(found).parent for found in places if isinstance(found, str)), None)


def _is_complete(folder: Path, allow_pickle: bool) -> bool:
    try:
        _refuse_incomplete(folder, allow_pickle)
    except WeightsError:
        return False
    return True


def _receipt(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        whole = "licence" in content and all((folder / file).is_file() for file in content["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return content if whole else None


def _write_receipt(folder: Path, content: dict[str, Any]) -> None:
    try:
        (folder / RECEIPT).write_text(json.dumps(content), encoding="utf-8")
    except OSError:
        # A cache that may only be read: the next call asks the hub again, which is slower and not wrong.
        return


def _licence(repo: str, card: Any) -> str | None:
    stated = card.get("license") if card is not None else None
    # Meta's music weights are all under this one; not every card says so where a program can read it.
    return stated or ("cc-by-nc-4.0" if repo.startswith("facebook/") else None)


def _explained(name: str, error: Exception) -> WeightsError:
    from huggingface_hub import errors

    repo, _, revision = name.partition("@")
    if isinstance(error, errors.GatedRepoError):
        return WeightsError(f"{repo} asks for consent: give it at https://huggingface.co/{repo}, then `hf auth login`")
    refused = getattr(getattr(error, "response", None), "status_code", None) in (401, 403)
    if refused or isinstance(error, errors.RepositoryNotFoundError):
        return WeightsError(f"neither a folder nor the hub has '{repo}' (or it is private){_suggestion(repo)}")
    if isinstance(error, errors.RevisionNotFoundError):
        return WeightsError(f"{repo} has no revision '{revision}': leave out @{revision} for the newest")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return DownloadError(f"{name} is not on this disk and HF_HUB_OFFLINE is set: unset it once to fetch")
    if isinstance(error, OSError) and error.errno == 28:
        return DownloadError(f"{name} does not fit on the disk: make room, or set HF_HOME to a larger one")
    cause = (str(error).strip().splitlines() or [""])[0][:120] or type(error).__name__
    return DownloadError(f"{name} could not be fetched ({cause}): check the network and {_AGAIN}")


def _suggestion(name: str) -> str:
    by_spelling = {known.rpartition("/")[2]: known for known in names()} | {known: known for known in names()}
    close = difflib.get_close_matches(name.lower().partition("@")[0], by_spelling, n=1)
    if close:
        return f": did you mean {by_spelling[close[0]]}?"
    return f": name {' or '.join(BUNDLED)} (bundled), a folder, or owner/name on the hub, such as {PUBLISHED[3]}"


def _bar(progress: Progress | None) -> type:
    """A progress bar for the hub's client that draws nothing, and passes on how many bytes are done."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if progress is not None and self._counts_bytes:
                progress(int(self.n), int(max(self.total or 0, self.n)))

    return Bar
