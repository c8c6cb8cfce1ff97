"""Finding checkpoints, with huggingface_hub really talking to a small hub on the loopback interface."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save

from hemiola.errors import DownloadError, WeightsError
from hemiola.weights import hub, keys

REPO = "someone/tiny-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = save({"a": np.arange(100_000, dtype=np.float32)})
FILES = {"config.json": b'{"model_type": "encodec"}', "model.safetensors": WEIGHTS, "README.md": b"# hello"}


@pytest.fixture
def server(hub_on_loopback: Any) -> Any:
    """A hub with one repository, REPO at COMMIT, that holds FILES."""
    hub_on_loopback.repo, hub_on_loopback.commit, hub_on_loopback.files = REPO, COMMIT, dict(FILES)
    return hub_on_loopback


def message(call: Callable[[], object], kind: type[Exception] = WeightsError) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_is_fetched_once_and_then_used_offline(server: Any) -> None:
    first = hub.locate(REPO)
    assert (first.name, first.revision, first.downloaded, first.licence) == (REPO, COMMIT, True, "mit")
    assert keys.read(first.folder, "torch")["a"].tolist() == list(range(100_000))
    assert {name for name, _ in server.fetched} == {"config.json", "model.safetensors"}
    server.shutdown()
    server.server_close()
    again = hub.locate(REPO)
    assert again.folder == first.folder
    assert again.licence == "mit"
    assert not again.downloaded
    assert [(each.name, each.folder) for each in hub.cached()] == [(REPO, first.folder)]


def test_progress_counts_every_byte(server: Any) -> None:
    seen: list[tuple[int, int]] = []
    hub.locate(REPO, progress=lambda done, total: seen.append((done, total)))
    whole = len(FILES["config.json"]) + len(WEIGHTS)
    assert max(done for done, _ in seen) == whole
    assert all(0 <= done <= total for done, total in seen)


def test_nothing_is_drawn_on_the_terminal(server: Any, capfd: pytest.CaptureFixture[str]) -> None:
    hub.locate(REPO)
    assert capfd.readouterr() == ("", "")


def test_a_revision_can_be_named(server: Any) -> None:
    for revision in ("v1", COMMIT):
        assert hub.locate(f"{REPO}@{revision}").revision == COMMIT
    assert "no revision 'v9'" in message(lambda: hub.locate(f"{REPO}@v9"))


def test_a_download_that_breaks_goes_on_where_it_stopped(server: Any) -> None:
    server.cuts = [150_000, 100_000]
    found = hub.locate(REPO)
    assert (found.folder / "model.safetensors").read_bytes() == WEIGHTS
    spans = [span for name, span in server.fetched if name == "model.safetensors"]
    assert spans == [None, "bytes=150000-", "bytes=250000-"]


def test_a_download_that_fails_never_poisons_the_next(server: Any) -> None:
    server.cuts = [200_000] + [0] * 20
    text = message(lambda: hub.locate(REPO), DownloadError)
    assert REPO in text
    assert "run it again" in text
    assert hub.cached() == []
    # Off the network now, half a download is not a model.
    server.refusal = (503, "")
    message(lambda: hub.locate(REPO), DownloadError)
    server.refusal, server.cuts = None, []
    server.fetched.clear()
    found = hub.locate(REPO)
    assert found.downloaded
    assert (found.folder / "model.safetensors").read_bytes() == WEIGHTS
    # What was complete is not fetched twice.
    assert [name for name, _ in server.fetched] == ["model.safetensors"]


def test_ctrl_c_in_the_middle_never_poisons_the_next(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(done: int, total: int) -> None:
        if done > 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.locate(REPO, progress=interrupted)
    assert hub.cached() == []
    assert (hub.locate(REPO).folder / "model.safetensors").read_bytes() == WEIGHTS


def test_shards_are_fetched_with_their_index(server: Any) -> None:
    names = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    del server.files["model.safetensors"]
    for k, name in enumerate(names):
        server.files[name] = save({f"t{k}": np.full(3, k, np.float32)})
    index = {"weight_map": {"t0": names[0], "t1": names[1]}}
    server.files["model.safetensors.index.json"] = json.dumps(index).encode()
    found = hub.locate(REPO)
    assert {name: tensor.tolist() for name, tensor in keys.read(found.folder, "torch").items()} == {
        "t0": [0, 0, 0],
        "t1": [1, 1, 1],
    }


def test_only_what_is_needed_is_fetched(server: Any) -> None:
    server.files |= {
        "pytorch_model.bin": b"x",
        "state_dict.bin": b"x",
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
        "spiece.model": b"x",
        "generation_config.json": b"{}",
        "flax_model.msgpack": b"x",
        "model.fp16.safetensors": b"x",
        "model-00001-of-00002.safetensors": b"x",
    }
    found = hub.locate(REPO, allow_pickle=True)
    assert {each.name for each in found.folder.iterdir()} == {
        hub.RECEIPT,
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "spiece.model",
        "generation_config.json",
    }


def test_audiocrafts_layout_is_only_fetched_when_allowed_and_then_offline(server: Any) -> None:
    server.files = {"state_dict.bin": b"lm", "compression_state_dict.bin": b"codec", "README.md": b"# hello"}
    assert "--allow-pickle" in message(lambda: hub.locate(REPO))
    assert server.fetched == []
    folder = hub.locate(REPO, allow_pickle=True).folder
    assert {path.name for path in folder.iterdir()} == {*keys.AUDIOCRAFT, ".hemiola.json"}
    server.shutdown()
    server.server_close()
    assert hub.locate(REPO, allow_pickle=True).folder == folder


def test_a_pickle_is_only_fetched_when_allowed(server: Any) -> None:
    server.files["pytorch_model.bin"] = server.files.pop("model.safetensors")
    assert "--allow-pickle" in message(lambda: hub.locate(REPO))
    assert server.fetched == []
    assert (hub.locate(REPO, allow_pickle=True).folder / "pytorch_model.bin").is_file()
    assert "--allow-pickle" in message(lambda: hub.locate(REPO))


@pytest.mark.parametrize("lost,says", [("config.json", "config.json"), ("model.safetensors", "no weights")])
def test_a_repository_that_is_not_a_checkpoint(server: Any, lost: str, says: str) -> None:
    del server.files[lost]
    assert says in message(lambda: hub.locate(REPO))
    assert server.fetched == []


@pytest.mark.parametrize(
    "refusal,kind,says",
    [
        ((404, "RepoNotFound"), WeightsError, "neither a folder nor the hub has 'someone/tiny-model'"),
        ((401, ""), WeightsError, "private"),
        ((403, "GatedRepo"), WeightsError, "asks for consent"),
        ((500, ""), DownloadError, "check the network"),
    ],
)
def test_what_the_hub_refuses(server: Any, refusal: tuple[int, str], kind: type[Exception], says: str) -> None:
    server.refusal = refusal
    assert says in message(lambda: hub.locate(REPO), kind)


def test_offline_says_so(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in message(lambda: hub.locate(REPO), DownloadError)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.locate(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.locate(REPO).revision == COMMIT


def test_no_network_says_so(server: Any) -> None:
    server.shutdown()
    server.server_close()
    text = message(lambda: hub.locate(REPO), DownloadError)
    assert "check the network" in text


def test_what_another_program_fetched_is_used_offline(server: Any) -> None:
    huggingface_hub.snapshot_download(REPO, allow_patterns=["*.json", "*.safetensors"], tqdm_class=hub._bar(None))
    server.refusal = (500, "")
    found = hub.locate(REPO)
    assert not found.downloaded
    (found.folder / "model.safetensors").unlink()
    message(lambda: hub.locate(REPO), DownloadError)


def test_a_file_deleted_from_the_cache_is_fetched_again(server: Any) -> None:
    found = hub.locate(REPO)
    for file in (found.folder / "model.safetensors", (found.folder / "model.safetensors").resolve()):
        file.unlink()
    assert hub.cached() == []
    assert (hub.locate(REPO).folder / "model.safetensors").read_bytes() == WEIGHTS


def test_the_licence_of_a_silent_card(server: Any) -> None:
    server.licence = None
    assert hub.locate(REPO).licence is None
    assert hub._licence("facebook/musicgen-small", None) == "cc-by-nc-4.0"


def test_a_full_disk_says_so(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    assert "does not fit on the disk" in message(lambda: hub.locate(REPO), DownloadError)


# ---- without the hub


def checkpoint(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return folder


def test_a_folder_is_itself(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "mine")
    assert hub.locate(folder) == hub.locate(str(folder))
    assert hub.locate(folder).folder == folder
    (folder / "model.safetensors").unlink()
    assert "no weights" in message(lambda: hub.locate(folder))
    (folder / "config.json").unlink()
    assert "config.json" in message(lambda: hub.locate(folder))


def test_a_folder_that_looks_like_a_hub_name_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "facebook").mkdir()
    checkpoint(tmp_path / "facebook" / "musicgen-small")
    monkeypatch.chdir(tmp_path)
    assert hub.locate("facebook/musicgen-small").revision == ""


def test_the_bundled_model_is_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    assert "reinstall" in message(lambda: hub.locate("sketch"))
    (tmp_path / "assets").mkdir()
    checkpoint(tmp_path / "assets" / "sketch")
    found = hub.locate("sketch")
    assert found.bundled
    assert found.folder == tmp_path / "assets" / "sketch"


@pytest.mark.parametrize(
    "name,says",
    [
        ("sketsh", "did you mean sketch?"),
        ("musicgen-small", "did you mean facebook/musicgen-small?"),
        ("MusicGen-Larg", "did you mean facebook/musicgen-large?"),
        ("qqq", "name sketch or sketch-24khz (bundled), a folder, or owner/name"),
        ("", "name sketch"),
        ("./nowhere/at-all", "no model and no folder './nowhere/at-all'"),
        ("/nowhere/at/all", "no folder"),
        ("a/b/c", "no folder"),
        ("owner/na--me..", "cannot be a name"),
    ],
)
def test_names_that_nobody_knows(name: str, says: str) -> None:
    assert says in message(lambda: hub.locate(name))


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    assert "name the folder" in message(lambda: hub.locate(tmp_path / "model.safetensors"))


def test_names_start_with_what_needs_no_network() -> None:
    assert hub.names()[0] == "sketch"
    assert "facebook/musicgen-small" in hub.names()
