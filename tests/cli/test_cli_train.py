"""`hemiola train`: what it passes on, what it says, and configs that are refused before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.mark.parametrize(("kind", "home"), [("codec", "runs"), ("musicgen", "runs"), ("blend", "blend_runs")])
def test_a_config_with_overrides_is_run_and_its_checkpoint_named(
    hemiola: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, home: str
) -> None:
    seen = []

    def train(values: dict, *, resume: bool, progress: Callable[[str, int, int], None]) -> Path:
        seen.append((values, resume))
        for phase in ("composing", "tokens"):
            for done in (1, 2, 3):
                progress(phase, done, 3)
        return Path(values["run"]["folder"]) / "checkpoint"

    monkeypatch.setitem(sys.modules, f"hemiola.train.{home}", SimpleNamespace(**{f"train_{kind}": train}))
    (tmp_path / "run.yaml").write_text("run: {folder: out, steps: 5}")
    ran = hemiola("train", kind, "--config", "run.yaml", "run.steps=7", "--resume")
    assert (ran.code, ran.out) == (0, "out/checkpoint\n")
    assert seen == [({"run": {"folder": "out", "steps": 7}}, True)]
    # Without a terminal there is a line for each phase that is done, and no bars.
    assert ran.err == "composing: 3 done\ntokens: 3 done\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--config"),
        (["--config", "nosuch.yaml"], "nosuch.yaml"),
        (["--config", "bad.yaml"], "not valid YAML"),
        (["--config", "good.yaml", "steps"], "section.key=value"),
    ],
)
def test_a_bad_config_is_one_line_at_once(
    hemiola: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "hemiola.train.runs", None)  # would be an error, were it loaded
    (tmp_path / "bad.yaml").write_text("run: {")
    (tmp_path / "good.yaml").write_text("run: {steps: 3}")
    ran = hemiola("train", "codec", *words)
    assert message in ran.error
    assert ran.code == 2


def test_what_training_needs_is_named_with_its_extra(
    hemiola: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.delitem(sys.modules, "hemiola.train.config", raising=False)
    ran = hemiola("train", "codec", "--config", "run.yaml")
    assert (ran.code, ran.error) == (3, "training needs yaml: pip install 'hemiola[train]'")


@pytest.mark.parametrize("begun", [False, True])
def test_a_requeued_job_goes_on_where_there_is_a_checkpoint(
    hemiola: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    seen = []

    def train(values: dict, *, resume: bool, progress: object) -> Path:
        seen.append(resume)
        return Path("out")

    monkeypatch.setitem(sys.modules, "hemiola.train.runs", SimpleNamespace(train_codec=train))
    (tmp_path / "run.yaml").write_text("run: {folder: out}")
    if begun:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "last.ckpt").touch()
    assert hemiola("train", "codec", "--config", "run.yaml", "--auto-resume").code == 0
    assert seen == [begun]


def test_of_many_processes_one_names_what_was_written(
    hemiola: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setitem(sys.modules, "hemiola.train.runs", SimpleNamespace(train_codec=lambda values, **_: Path("out")))
    (tmp_path / "run.yaml").write_text("run: {folder: out}")
    for rank, out in ((0, "out\n"), (1, "")):
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        assert hemiola("train", "codec", "--config", "run.yaml").out == out


def test_a_rank_for_lora_is_a_key_of_the_config(hemiola: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def train(values: dict, **_: object) -> Path:
        seen.append(values)
        return Path("out")

    monkeypatch.setitem(sys.modules, "hemiola.train.runs", SimpleNamespace(train_musicgen=train))
    (tmp_path / "run.yaml").write_text("recipe: {lora_rank: 8}")
    assert hemiola("train", "musicgen", "--config", "run.yaml", "--lora-rank", "4", "run.steps=3").code == 0
    assert seen == [{"recipe": {"lora_rank": 4}, "run": {"steps": 3}}]


@pytest.mark.parametrize("faulty", [False, True])
def test_an_audit_is_a_table_and_its_faults_are_named(
    hemiola: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faulty: bool
) -> None:
    from hemiola.train import audit, blend_runs

    def rows(parts: Any) -> list[audit.Row]:
        assert parts == {"run": {"folder": "out"}, "model": {"size": "tiny"}}
        norms = dict.fromkeys(audit.COLUMNS, 0.25) | ({"starts": 0.0} if faulty else {})
        return [audit.Row("mel", 1.5, 0.01, norms)]

    monkeypatch.setattr(blend_runs, "assemble", lambda values, progress: values)
    monkeypatch.setattr(audit, "audit", rows)
    (tmp_path / "run.yaml").write_text("run: {folder: out}")
    ran = hemiola("train", "blend", "audit", "--config", "run.yaml", "model.size=tiny")
    heading, line, *faults = ran.err.splitlines()
    assert heading.split() == ["loss", "value", *audit.COLUMNS]
    cells = ["." if faulty else "2e-01", *["2e-01"] * 6]
    assert line.split() == ["mel", "1.500", *cells]
    assert ran.code == faulty
    assert faults == ["mel: not as it should be in starts"] * faulty
    assert ran.out == ""
