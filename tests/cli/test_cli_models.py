"""`hemiola models`: what is listed, what is shown, and nothing fetched unasked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file

from hemiola.weights import hub

Run = Callable[..., Any]


@pytest.fixture
def cache(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with one checkpoint that is whole, and no network."""
    folder = tmp_path / "cache" / "models--some--music" / "snapshots" / ("c0ffee" * 6 + "c0ff")
    shutil.copytree(tiny, folder)
    receipt = {"files": [path.name for path in folder.iterdir()], "licence": "cc-by-nc-4.0"}
    (folder / ".hemiola.json").write_text(json.dumps(receipt))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def facts(ran: Any) -> dict[str, str]:
    assert ran.code == 0
    return dict(line.split("\t") for line in ran.out.splitlines())


@pytest.mark.usefixtures("cache")
def test_list_tells_where_each_model_is(hemiola: Run) -> None:
    listed = facts(hemiola("models", "list"))
    assert listed["sketch"] == "bundled"
    assert listed["some/music"] == "on this disk"
    assert listed["facebook/musicgen-small"] == "to be fetched"


def test_show_tells_what_is_in_a_folder(hemiola: Run, tiny: Path) -> None:
    shown = facts(hemiola("models", "show", tiny))
    count = sum(np.prod(tensor.shape, dtype=int) for tensor in load_file(tiny / "model.safetensors").values())
    assert shown["parameters"] == f"{count:,}"
    assert shown["folder"] == str(tiny)
    expected = {"kind": "text to music", "sampling rate": "32000 Hz", "frame rate": "50 frames/s", "channels": "1"}
    expected |= {"codebooks": "4 of 64", "window": "30 s", "decoder": "2 layers, 32 wide", "bandwidths": "1.2 kbps"}
    assert expected.items() <= shown.items()


def test_show_finds_what_was_fetched_with_its_licence(hemiola: Run, cache: Path) -> None:
    for name in ("some/music", f"some/music@{cache.name}", "some/music@c0ffee"):
        shown = facts(hemiola("models", "show", name))
        assert (shown["name"], shown["revision"]) == ("some/music", cache.name)
        assert shown["licence"] == "cc-by-nc-4.0 (no commercial use)"


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "facebook/musicgen-small"], "hemiola models fetch facebook/musicgen-small"),
        (["show", "some/music@beef"], "not on this disk"),
        (["show", "skech"], "did you mean sketch"),
        (["show", "."], "no config.json"),
        (["fetch", "nosuch"], "no model and no folder"),
        (["fetch", "some/other"], "HF_HUB_OFFLINE"),
    ],
)
def test_what_is_not_there_is_one_line(hemiola: Run, words: list[str], message: str) -> None:
    ran = hemiola("models", *words)
    assert message in ran.error
    assert ran.code == 4


@pytest.mark.parametrize(("file", "content"), [("config.json", "[]"), ("config.json", "{"), ("model.safetensors", "x")])
def test_a_damaged_folder_is_one_line(hemiola: Run, tmp_path: Path, tiny: Path, file: str, content: str) -> None:
    shutil.copytree(tiny, tmp_path / "damaged")
    (tmp_path / "damaged" / file).write_text(content)
    ran = hemiola("models", "show", "damaged")
    assert file in ran.error
    assert ran.code == 4


def test_fetch_of_what_is_here_names_its_folder(hemiola: Run, cache: Path, tiny: Path) -> None:
    assert hemiola("models", "fetch", tiny).out == f"{tiny}\n"


def test_a_fetched_model_is_recorded_by_name_and_revision(hemiola: Run, cache: Path, tmp_path: Path) -> None:
    words = ("--seconds", "0.1", "--seed", 1, "--device", "cpu", "--backend", "torch")
    assert hemiola("generate", "x", "--model", "some/music@" + cache.name, *words, "-o", "out.wav").code == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["model"], record["revision"]) == ("some/music", cache.name)
    assert hemiola("generate", "--from", "out.json", "-o", "again.wav").code == 0


def test_the_licence_is_shown_when_a_model_arrives(hemiola: Run, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = hub.Checkpoint("some/music", cache.name, cache, licence="cc-by-nc-4.0")
    for checkpoint, said in ((replace(here, downloaded=True), "cc-by-nc-4.0 (no commercial use)"), (here, "")):
        monkeypatch.setattr(hub, "locate", lambda *_, found=checkpoint, **__: found)
        ran = hemiola("models", "fetch", "some/music")
        assert (ran.code, ran.out) == (0, f"{cache}\n")
        assert said in ran.err if said else ran.err == ""


def test_convert_writes_a_folder_that_loads(hemiola: Run, tiny: Path, tmp_path: Path) -> None:
    given = shutil.copytree(tiny, tmp_path / "given")
    (given / "generation_config.json").write_text('{"temperature": 0.6}')
    ran = hemiola("models", "convert", given, "half", "--dtype", "float16")
    assert (ran.code, ran.out) == (0, "half\n")
    recommended = json.loads((tmp_path / "half" / "generation_config.json").read_text())
    assert (recommended["temperature"], recommended["top_k"]) == (0.6, 250)
    assert {each.dtype for each in load_file(tmp_path / "half" / "model.safetensors").values()} == {np.dtype("float16")}
    shown = facts(hemiola("models", "show", "half"))
    assert shown["parameters"] == facts(hemiola("models", "show", tiny))["parameters"]
    made = hemiola("generate", "slow", "--model", "half", "--seconds", "0.1", "--device", "cpu", "-o", "out.wav")
    assert made.code == 0
    assert "half exists: name a new folder" in hemiola("models", "convert", tiny, "half").error
