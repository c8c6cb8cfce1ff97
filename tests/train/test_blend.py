"""Training a blend on tiny pairs: what is decoded and compared, what is refused, and what ends a run."""

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
from torch.utils.data import default_collate

from hemiola.backend import choose
from hemiola.blend.model import Blend
from hemiola.blend.selector_torch import Windows
from hemiola.errors import HemiolaError, InputError
from hemiola.timebase import Timebase
from hemiola.train import blend as blends
from hemiola.train import blend_losses, blend_runs, pairs
from hemiola.train import fit as fits
from hemiola.train.blend import BlendRecipe, BlendTraining
from hemiola.train.blend_losses import BLEND_LOSSES, DEFAULT_WEIGHTS
from hemiola.train.blend_runs import Parts, assemble
from hemiola.train.blend_watch import Watch
from hemiola.train.latents import LatentCache, PairLatents
from hemiola.train.runs import TrainedCodec, trained_codec

Config = dict[str, Any]
Make = Callable[..., Config]

HOP, FRAMES, CROP = 80, 32, 13  # a quarter of a second is 12.5 frames
RECONSTRUCTION = ("rms_input", "rms_target", "stft", "mel", "correlation", "reconstruction", "latent_match")


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run a config with callbacks; pictures take longer than these runs, so few are `heard`."""

    def run(config: Config, *callbacks: Callback, heard: int = 0, resume: bool = False) -> Path:
        def fit(*args: Any, callbacks: tuple[Callback, ...], **kwargs: Any) -> L.Trainer:
            return fits.fit(*args, **kwargs, callbacks=(*callbacks, *added), progress=False)

        added = callbacks
        monkeypatch.setattr(blend_runs, "fit", fit)
        monkeypatch.setattr(blend_runs, "Watch", partial(Watch, heard=heard))
        return blend_runs.train_blend(config, resume=resume)

    return run


def batch_of(parts: Parts, *items: int) -> dict[str, Tensor]:
    return default_collate([parts.train[item] for item in items])


def composed(parts: Parts, batch: dict[str, Tensor]) -> Any:
    """Passages of windows that are given: at three places, at three tempi."""
    count = len(batch["item"])
    starts = torch.tensor([[3.0, 50.5, 150.0]]).repeat(count, 1)
    ratios = torch.tensor([[1.0, 1.25, 0.8]]).repeat(count, 1)
    return parts.module.network.compose(
        batch["input"], batch["target"], Windows(starts, ratios, starts.flip(1), ratios.flip(1))
    )


# ---- what is compared


def test_windows_are_decoded_as_they_were_cut(blend_config: Make) -> None:
    parts = assemble(blend_config())
    module, batch = parts.module, batch_of(parts, 0, 1)
    blended = composed(parts, batch)
    scene = module.scene(blended, batch)
    assert scene.output_audio.shape == scene.input_audio.shape == scene.target_audio.shape == (6, 1, CROP * HOP)
    firsts = module._crop(batch)
    assert firsts is not None and ((firsts >= 0) & (firsts <= FRAMES - CROP)).all()
    for place in range(6):
        first = int(firsts[place])
        for audio, latents in (
            (scene.output_audio, blended.output),
            (scene.input_audio, blended.input_window),
            (scene.target_audio, blended.target_window),
        ):
            crop = latents.flatten(0, 1)[place : place + 1, :, first : first + CROP]
            torch.testing.assert_close(audio[place : place + 1], module.frozen.codec.synthesize(crop))
    assert scene.sample_rate == 4000
    assert torch.equal(scene.output, blended.output.flatten(0, 1))
    assert torch.equal(scene.input_ratios, blended.windows.input_ratios)


def test_a_crop_is_its_items_own(blend_config: Make) -> None:
    parts = assemble(blend_config())
    both, alone = (parts.module._crop(batch_of(parts, *items)) for items in ((4, 7), (7,)))
    assert both is not None and alone is not None
    # The passages of a pair share one, another rank has the same.
    assert both[3:].tolist() == alone.tolist() == [int(alone[0])] * 3
    drawn = {int(parts.module._crop(batch_of(parts, item))[0]) for item in range(12)}  # type: ignore[index]
    assert len(drawn) > 4


@pytest.mark.parametrize("seconds", [None, 5.0])
def test_all_of_a_window_is_decoded_where_no_crop_is_wanted(blend_config: Make, seconds: float | None) -> None:
    config = blend_config()
    config["recipe"]["decode_seconds"] = seconds
    parts = assemble(config)
    batch = batch_of(parts, 0)
    blended = composed(parts, batch)
    scene = parts.module.scene(blended, batch)
    expected = parts.module.frozen.codec.synthesize(blended.input_window[0])
    torch.testing.assert_close(scene.input_audio, expected)
    assert expected.shape == (3, 1, FRAMES * HOP)


def test_decoding_a_few_rows_at_a_time_changes_nothing(blend_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    module = assemble(blend_config()).module
    module.frozen.codec.double()
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(5, 4, 20, generator=draw, dtype=torch.float64, requires_grad=True)
    whole = module.frozen.codec.synthesize(latents)
    expected = torch.autograd.grad(whole.square().sum(), latents)[0]
    for row_count in (1, 2, 100):
        monkeypatch.setattr(blends, "BYTES_AT_ONCE", row_count * 4 * 2 * 20 * HOP)
        found = module._sound(latents)
        torch.testing.assert_close(found, whole)
        torch.testing.assert_close(torch.autograd.grad(found.square().sum(), latents)[0], expected)


def same_windows(parts: Parts, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Terms of an untrained network, target = input, ratio 1, at the same place in both."""
    starts, ratios = torch.tensor([[0.0, 40.5, 200.0]]), torch.ones(1, 3)
    blended = parts.module.network.compose(
        batch["input"], batch["input"], Windows(starts, ratios, starts.clone(), ratios.clone())
    )
    return parts.module.terms(blended, batch)


def test_where_all_is_the_same_there_is_nothing_to_reconstruct_but_for_the_center(blend_config: Make) -> None:
    terms = {}
    for reference in ("window", "center"):
        config = blend_config()
        config["data"]["mode"], config["recipe"]["reference"] = "unity", reference
        parts = assemble(config)
        terms[reference] = same_windows(parts, batch_of(parts, 0))
    for name in RECONSTRUCTION:
        assert 0 <= terms["window"][name] <= 1e-5, name
    for name in ("rms_input", "rms_target", "stft", "mel", "reconstruction"):
        assert terms["center"][name] > 0.01, name


@pytest.mark.slow
def test_unity_through_the_bundled_codec(blend_config: Make) -> None:
    """The bar itself, of noise and of a tone, with that codec's own frames."""
    from hemiola.blend.config import BlendConfig
    from hemiola.blend.network_torch import BlendNetwork
    from hemiola.codec.model import EncodecModel

    codec = EncodecModel.from_pretrained("sketch-24khz", backend="torch", device="cpu").network
    draw = torch.Generator().manual_seed(0)
    times = torch.arange(96_000) / 24_000
    sounds = torch.stack([torch.randn(96_000, generator=draw), (2 * torch.pi * 440 * times).sin()])[:, None]
    audio = 0.2 * sounds * (5 * times).sin()
    with torch.no_grad():
        latents = codec.latents(audio)
    assert latents.shape == (2, 128, 300)
    network = BlendNetwork(BlendConfig(clip_frames=300, output_frames=64, size="tiny"))
    network.fit_latents(latents.mean((0, 2)), latents.std((0, 2)))
    starts, ratios = torch.tensor([[0.0, 110.5, 236.0]] * 2), torch.ones(2, 3)
    blended = network.compose(latents, latents, Windows(starts, ratios, starts.clone(), ratios.clone()))
    middle = audio[..., (96_000 - 64 * 320) // 2 :][..., : 64 * 320]
    batch = {"input": latents, "target": latents, "item": torch.tensor([0, 1])}
    batch |= {"input_audio": middle, "target_audio": middle}
    found = {}
    for reference in ("window", "center"):
        module = BlendTraining(network, codec, BlendRecipe(decode_seconds=0.5, reference=reference))
        with torch.no_grad():
            found[reference] = module.terms(blended, batch)
    assert {name: float(found["window"][name]) for name in RECONSTRUCTION} == pytest.approx(
        dict.fromkeys(RECONSTRUCTION, 0), abs=1e-5
    )
    assert all(found["center"][name] > 0.01 for name in ("rms_input", "rms_target", "stft", "mel", "reconstruction"))


def test_the_center_is_the_middle_of_the_recordings(blend_config: Make, train: Callable[..., Path]) -> None:
    config = blend_config(steps=2)
    config["recipe"]["reference"] = "center"
    parts = assemble(config)
    item = parts.train[1]
    batch = batch_of(parts, 1, 2)
    scene = parts.module.scene(composed(parts, batch), batch)
    firsts = parts.module._crop(batch)
    assert firsts is not None
    # 240 - 32 = 208 frames to either side of 32: from frame 104 on.
    heard = parts.train.audio(1)
    for name, whole, audio in zip(("input", "target"), heard, (scene.input_audio, scene.target_audio)):
        assert torch.equal(item[f"{name}_audio"], torch.from_numpy(whole[:, 104 * HOP : 136 * HOP]))
        first = 104 * HOP + int(firsts[0]) * HOP
        assert torch.equal(audio[0], torch.from_numpy(whole[:, first : first + CROP * HOP]))
        assert torch.equal(audio[2], audio[0]) and not torch.equal(audio[3], audio[0])
    crop = composed(parts, batch).output[0, :1, :, int(firsts[0]) : int(firsts[0]) + CROP]
    torch.testing.assert_close(scene.output_audio[:1], parts.module.frozen.codec.synthesize(crop))
    # Otherwise items hold latents only: no step reads a sound file.
    assert "input_audio" not in assemble(blend_config()).train[1]
    assert (train(config) / "model.safetensors").is_file()


def test_clips_without_a_middle_are_refused(pair_folder: Path, blend_codec: Path) -> None:
    codec = trained_codec(TrainedCodec(str(blend_codec)), choose("torch", "cpu"))
    dataset = pairs.read(pair_folder)
    latents = LatentCache(dataset, codec).build()
    with pytest.raises(InputError, match="have no middle: 3 frames cannot be centred"):
        PairLatents(dataset, "train", latents, frames=3, center=Timebase(4000, 81))


# ---- what is trained


def test_the_codec_is_no_part_of_what_is_trained_or_kept(blend_config: Make) -> None:
    module = assemble(blend_config()).module
    frozen = {id(each) for each in module.frozen.codec.parameters()}
    assert not frozen & {id(each) for each in module.parameters()}
    assert not any(each.requires_grad for each in module.frozen.codec.parameters())
    assert {name.partition(".")[0] for name in module.state_dict()} == {"network", "discriminator"}
    optimizers = module.configure_optimizers()
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    held = [id(each) for group in groups for each in group["params"]]
    assert sorted(held) == sorted(id(each) for each in module.parameters())
    assert [group["lr"] for group in groups] == [1e-4, 1e-2, 1e-4]
    assert {id(each) for each in groups[1]["params"]} == {id(each) for each in module.network.selector.parameters()}


def test_a_weight_of_0_is_not_computed(
    blend_config: Make, train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(scene: Any) -> Tensor:
        raise AssertionError("computed in vain")

    config = blend_config(steps=2, validate_every_steps=1)
    config["recipe"]["losses"] = dict.fromkeys(BLEND_LOSSES, 0.0) | {"latent_match": 1.0, "balance": 0.5}
    for name in set(BLEND_LOSSES) - {"latent_match", "balance"}:
        monkeypatch.setitem(blend_losses.BLEND_LOSSES, name, never)
    parts = assemble(config)
    batch = batch_of(parts, 0)
    terms = parts.module.terms(composed(parts, batch), batch)
    assert set(terms) == {"latent_match", "balance"}
    torch.testing.assert_close(parts.module.total(terms), terms["latent_match"] + 0.5 * terms["balance"])
    # Nobody judges, so nobody learns to.
    assert parts.module.discriminator is None
    assert len(parts.module.configure_optimizers()) == 1
    train(config)


def test_weights_not_named_keep_their_default() -> None:
    assert BlendRecipe(losses={"mel": 0.5}).weights == {**DEFAULT_WEIGHTS, "mel": 0.5}
    assert set(DEFAULT_WEIGHTS) == set(BLEND_LOSSES)


@pytest.mark.parametrize("mode", ["unity", "shuffle_targets"])
def test_other_modes_train(blend_config: Make, train: Callable[..., Path], mode: str) -> None:
    config = blend_config(steps=2)
    config["data"]["mode"] = mode
    parts = assemble(config)
    item = parts.train[0]
    assert torch.equal(item["input"], item["target"]) == (mode == "unity")
    assert (train(config) / "model.safetensors").is_file()


def test_half_precision_trains(blend_config: Make, train: Callable[..., Path]) -> None:
    train(blend_config(steps=2, precision="bf16-mixed"))


def test_pairs_are_composed_where_there_are_none(blend_config: Make, tmp_path: Path) -> None:
    config = blend_config()
    form = {"clip_seconds": 4.8, "stretch_seconds": 2.0, "sample_rate": 4000}
    config["data"] = {"folder": str(tmp_path / "planted"), "synthetic": {"pairs": 2, "valid_pairs": 1, **form}}
    told: list[tuple[str, int, int]] = []
    parts = assemble(config, progress=lambda *at: told.append(at))
    assert parts.train[0]["input"].shape == (4, 240)  # type: ignore[union-attr]
    assert (len(parts.train), len(parts.valid)) == (2, 1)
    assert ("composing", 3, 3) in told and ("latents", 6, 6) in told


def test_latents_are_measured_on_the_training_pairs(blend_config: Make) -> None:
    parts = assemble(blend_config())
    whole = torch.cat([parts.train[item][name] for item in range(3) for name in ("input", "target")], 1)  # type: ignore[misc]
    network = parts.module.network
    torch.testing.assert_close(network.latent_mean, whole.mean(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.latent_spread, whole.std(1), atol=1e-5, rtol=1e-5)
    even = network.even(whole)
    torch.testing.assert_close(even.std(1), torch.ones(4), atol=1e-4, rtol=0)


# ---- what a run leaves


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_a_blend_figures_and_what_it_heard(blend_config: Make, train: Callable[..., Path]) -> None:
    config = blend_config(steps=2, validate_every_steps=2)
    config["model"]["pairs"] = 1
    rates = ("learning_rate", "selector_learning_rate", "discriminator_learning_rate")
    config["recipe"] |= dict.fromkeys(rates, 1e-12)
    folder = train(config, heard=1)
    blend = Blend.from_pretrained(folder, device="cpu")
    assert (blend.config.codec, blend.config.clip_frames) == (config["codec"]["path"], 240)
    seen = folder.parent / "validation"
    names = {"rows.csv", "pair-0-1.wav", "pair-0-1-input.wav", "pair-0-1-target.wav", "pair-0-1.png"}
    assert {path.name for path in seen.iterdir()} == names
    (row,) = rows_of(seen / "rows.csv")
    # At first the window lies in the middle: from column 13 of 26 on, of 8 frames each, 50 of which are a second.
    assert float(row["input_start_seconds"]) == pytest.approx(13 * 8 / 50, abs=1e-3)
    (figures,) = [each for each in rows_of(folder.parent / "metrics.csv") if each.get("valid/loss")]
    for name in DEFAULT_WEIGHTS:
        assert figures[f"valid/{name}"]
    assert float(figures["valid/copies"]) in (0, 1)
    assert float(figures["valid/window_diversity"]) == 1
    # Both windows begin there, and the target plays what the input plays half a second later.
    assert float(figures["valid/lag_median_seconds"]) == pytest.approx(0.5, abs=1e-3)
    total = sum(DEFAULT_WEIGHTS[name] * float(figures[f"valid/{name}"]) for name in DEFAULT_WEIGHTS)
    assert float(figures["valid/loss"]) == pytest.approx(total, rel=1e-4)


def test_accuracy_is_counted_by_hand() -> None:
    watch = Watch([], Path("nowhere"))  # type: ignore[arg-type]
    assert watch._accuracy() == {}
    watch.errors = [(0.1, 0.01), (0.25, 0.05), (0.3, 0.06), (4.0, 0.3)]
    assert watch._accuracy() == {"lag_median_seconds": 0.275, "lag_right": 0.5, "tempo_right": 0.5}


class Spoil(Callback):
    """Makes the latents of a step's input no numbers."""

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            batch["input"].fill_(float("nan"))


def test_a_batch_that_is_no_number_ends_the_run_with_its_report(
    blend_config: Make, train: Callable[..., Path], tmp_path: Path
) -> None:
    config = blend_config(validate_every_steps=9)
    with pytest.raises(HemiolaError, match=r"a loss is not finite at step 3: ") as stopped:
        train(config, Spoil())
    for name in ("rms_input nan", "mel nan", "latent_match nan", "discriminator nan"):
        assert name in str(stopped.value)
    # Step 2 was the last that is kept, and it is whole.
    last = torch.load(tmp_path / "blend" / "last.ckpt", weights_only=True)
    assert last["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"] == 2
    assert all(tensor.isfinite().all() for tensor in last["state_dict"].values())
    assert not (tmp_path / "blend" / "checkpoint").exists()
