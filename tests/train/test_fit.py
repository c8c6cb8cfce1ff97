"""Runs: resumed ones end bit for bit where they would have ended, and mistakes are told."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from hemiola.errors import HemiolaError, InputError
from hemiola.train import blend_runs, checkpoints, runs
from hemiola.train import config as configs
from hemiola.train import fit as fits
from hemiola.train.blend_watch import Watch
from hemiola.train.fit import Run

Config = dict[str, Any]


class Stop(Callback):
    """Ends a run at the beginning of a step, as a kill would: with nothing saved on the way out."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.step:
            raise SystemError("killed")


class Record(Callback):
    """What every step was given."""

    def __init__(self) -> None:
        self.batches: dict[int, Any] = {}

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        assert batch_idx not in self.batches
        told = isinstance(batch, dict)
        self.batches[batch_idx] = next(batch[name] for name in ("tokens", "input") if name in batch) if told else batch


@pytest.fixture
def start(
    codec_config: Callable[..., Config],
    musicgen_config: Callable[..., Config],
    blend_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., None]:
    """Start or resume a run of a kind, with callbacks."""

    def run(
        kind: str, *callbacks: Callback, resume: bool = False, recipe: Config | None = None, **settings: Any
    ) -> None:
        def fit(*args: Any, **kwargs: Any) -> L.Trainer:
            kwargs["callbacks"] = (*kwargs.get("callbacks", ()), *callbacks)
            return fits.fit(*args, **kwargs, progress=False)

        for module in (runs, blend_runs):
            monkeypatch.setattr(module, "fit", fit)
        # Pictures take longer than these runs.
        monkeypatch.setattr(blend_runs, "Watch", partial(Watch, heard=0))
        config = {"codec": codec_config, "musicgen": musicgen_config, "blend": blend_config}[kind](**settings)
        config["recipe"] |= recipe or {}
        train = {"codec": runs.train_codec, "musicgen": runs.train_musicgen, "blend": blend_runs.train_blend}[kind]
        train(config, resume=resume)

    return run


def content(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.ckpt", weights_only=True)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def metrics(folder: Path) -> list[tuple[tuple[str, str], ...]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [tuple(sorted((k, v) for k, v in row.items() if v)) for row in csv.DictReader(file)]


# Stopped in the quantiser's warm-up and after it, before and after the discriminator joins, with a checkpoint between
# two validations (4) and at one (3, 6).
@pytest.mark.parametrize(
    ("kind", "every", "stop", "ema_decay"),
    [
        ("codec", 2, 3, None),
        ("codec", 2, 5, 0.9),
        ("codec", 3, 8, None),
        ("musicgen", 2, 5, None),
        ("musicgen", 3, 7, 0.9),
        ("blend", 2, 5, None),
    ],
)
def test_a_resumed_run_ends_where_it_would_have(
    start: Callable[..., None], tmp_path: Path, kind: str, every: int, stop: int, ema_decay: float | None
) -> None:
    whole, before, after = Record(), Record(), Record()
    settings = {"checkpoint_every_steps": every, "recipe": {"ema_decay": ema_decay} if ema_decay else {}}
    start(kind, whole, folder=str(tmp_path / "whole"), **settings)
    parts = {"folder": str(tmp_path / "parts"), **settings}
    with pytest.raises(SystemError):
        start(kind, before, Stop(stop), **parts)
    start(kind, after, resume=True, **parts)

    resumed_at = stop // every * every
    assert list(after.batches) == list(range(resumed_at, 9))
    for step in range(9):
        batch = (after if step >= resumed_at else before).batches[step]
        assert torch.equal(batch, whole.batches[step])
    expected, found = content(tmp_path / "whole"), content(tmp_path / "parts")
    also = [*(["balancer"] if kind == "codec" else []), *(["current_model_state"] if ema_decay else [])]
    for part in ("state_dict", "optimizer_states", "lr_schedulers", *also):
        assert same(expected[part], found[part]), part
    trained = [row for row in metrics(tmp_path / "whole") if "train" in str(row)]
    assert [row for row in metrics(tmp_path / "parts") if "train" in str(row)] == trained


def test_a_checkpoint_counts_batches_whatever_the_optimizers_count(start: Callable[..., None], tmp_path: Path) -> None:
    """The discriminator joins after an odd number of steps: optimizer steps are then never even again."""
    with pytest.raises(SystemError):
        start("codec", Stop(8), checkpoint_every_steps=2)
    saved = content(tmp_path / "codec")
    assert saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"] == 8
    assert saved["global_step"] == 3 + 2 * 5


@pytest.mark.parametrize("kind", ["codec", "musicgen"])
def test_half_precision_is_close_to_the_whole(start: Callable[..., None], tmp_path: Path, kind: str) -> None:
    """bfloat16 has 8 bits: after 6 steps the losses are the same within some per cent, and not to the bit."""
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        start(kind, steps=6, folder=str(tmp_path / precision), precision=precision)
        rows = [dict(row) for row in metrics(tmp_path / precision)]
        name = "train/mel" if kind == "codec" else "train/loss"
        losses[precision] = [float(row[name]) for row in rows if name in row]
        state = content(tmp_path / precision)["state_dict"]
        assert {each.dtype for each in state.values() if each.is_floating_point()} == {torch.float32}
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.05)
    assert losses["bf16-mixed"] != losses["32-true"]


def test_validation_changes_nothing(start: Callable[..., None], tmp_path: Path) -> None:
    for kind in ("codec", "musicgen", "blend"):
        start(kind, folder=str(tmp_path / f"{kind}-often"), validate_every_steps=1)
        start(kind, folder=str(tmp_path / f"{kind}-once"), validate_every_steps=9)
        assert same(content(tmp_path / f"{kind}-often")["state_dict"], content(tmp_path / f"{kind}-once")["state_dict"])


def test_a_finished_run_is_resumed_to_no_effect_and_never_made_longer(
    start: Callable[..., None], tmp_path: Path
) -> None:
    seen = Record()
    start("musicgen", steps=5, checkpoint_every_steps=100)
    before, logged = content(tmp_path / "musicgen"), metrics(tmp_path / "musicgen")
    start("musicgen", seen, resume=True, steps=5, checkpoint_every_steps=100)
    assert not seen.batches
    assert same(before["state_dict"], content(tmp_path / "musicgen")["state_dict"])
    assert metrics(tmp_path / "musicgen") == logged
    with pytest.raises(InputError, match=r"ended after 5 steps: for 9, choose another run\.folder"):
        start("musicgen", resume=True, steps=9)


def test_a_run_that_ends_early_is_given_away_too(start: Callable[..., None], tmp_path: Path) -> None:
    """At a rate this small nothing changes, so no validation is better than the first."""
    seen = Record()
    watched = {"monitor": "valid/loss", "patience": 2, "validate_every_steps": 1}
    start("musicgen", seen, **watched, recipe={"learning_rate": 1e-12})
    assert list(seen.batches) == [0, 1, 2]
    assert (tmp_path / "musicgen" / "checkpoint" / "model.safetensors").is_file()
    assert content(tmp_path / "musicgen")["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"] == 3


def test_a_folder_with_a_run_is_refused(start: Callable[..., None], tmp_path: Path) -> None:
    start("musicgen", steps=2)
    before = content(tmp_path / "musicgen")
    with pytest.raises(InputError, match="already holds a run: go on with --resume"):
        start("musicgen", steps=2)
    assert same(before, content(tmp_path / "musicgen"))
    with pytest.raises(InputError, match="no checkpoint to resume from in"):
        start("musicgen", resume=True, folder=str(tmp_path / "other"))


class Poison(Callback):
    """Makes a parameter infinite before a step."""

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 5:
            next(module.parameters()).data.fill_(float("inf"))


@pytest.mark.parametrize(("kind", "loss"), [("codec", "mel"), ("musicgen", "loss"), ("blend", "latent_match")])
def test_a_loss_that_is_not_finite_ends_the_run(
    start: Callable[..., None], tmp_path: Path, kind: str, loss: str
) -> None:
    with pytest.raises(HemiolaError, match=rf"a loss is not finite at step 5: .*{loss} nan"):
        start(kind, Poison(), checkpoint_every_steps=6)
    assert not (tmp_path / kind / "last.ckpt").exists()
    assert not (tmp_path / kind / "checkpoint").exists()


def test_half_a_checkpoint_is_never_the_last(tmp_path: Path) -> None:
    class Killed:
        def save_checkpoint(self, path: Path, **_: Any) -> None:
            path.write_bytes(b"half")
            raise SystemError("killed")

    (tmp_path / "last.ckpt").write_bytes(b"whole")
    with pytest.raises(SystemError):
        checkpoints.write(Killed(), tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == b"whole"


def test_a_run_reads_its_config(codec_config: Callable[..., Config]) -> None:
    assert configs.build(Run, codec_config()["run"], "run").checkpoint_every_steps == 2
    config = codec_config()
    config["codec"] = {"path": "sketch"}
    with pytest.raises(InputError, match="sections codec and model"):
        runs.train_codec(config)
    del config["codec"]
    config["model"]["filters"] = 3
    with pytest.raises(InputError, match=r"unknown key model\.filters"):
        runs.train_codec(config)


def test_a_folder_is_refused_before_any_work(codec_config: Callable[..., Config], tmp_path: Path) -> None:
    config = codec_config()
    (tmp_path / "codec").mkdir()
    (tmp_path / "codec" / "last.ckpt").write_bytes(b"")
    config["data"] = {"folder": str(tmp_path / "music"), "synthetic": {"pieces": 1}}
    with pytest.raises(InputError, match="already holds a run"):
        runs.train_codec(config)
    assert not (tmp_path / "music").exists()
