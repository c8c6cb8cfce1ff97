"""Training a codec: which loss moves what, schedules, a start that keeps the signal, and what transformers reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import Encodec
from hemiola.codec.model import EncodecModel
from hemiola.errors import InputError
from hemiola.train import runs
from hemiola.train.codec import CodecRecipe, CodecTraining, initialise, si_sdr_db

CONFIG = EncodecConfig(
    target_bandwidths=(0.75, 1.5),
    sampling_rate=2000,
    hidden_size=4,
    num_filters=2,
    upsampling_ratios=(4, 2),
    codebook_size=8,
    num_lstm_layers=1,
    use_causal_conv=False,
    use_conv_shortcut=False,
)
SMALL = {"mel_windows": (64, 128), "discriminator_windows": (64,), "discriminator_filters": 2}


def training(**recipe: Any) -> CodecTraining:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = Encodec(CONFIG)
        initialise(codec)
        return CodecTraining(codec, CodecRecipe(**{**SMALL, "quantiser_warmup_steps": 0, **recipe}))


def audio(seed: int = 0, samples: int = 200) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tone = torch.sin(torch.arange(samples) * 0.2 + 6 * torch.rand(3, 1, 1, generator=generator))
    return 0.3 * tone + 0.05 * torch.randn(3, 1, samples, generator=generator)


def step(module: CodecTraining, number: int, monkeypatch: pytest.MonkeyPatch) -> tuple[set[str], dict[str, Tensor]]:
    """One training step without a trainer: the names of what it moved, and what it logged."""
    logged: dict[str, Tensor] = {}
    optimizers = [LightningOptimizer(each) for each in module.configure_optimizers()]
    for optimizer in optimizers:
        monkeypatch.setattr(optimizer, "step", optimizer.optimizer.step)
    monkeypatch.setattr(module, "optimizers", lambda: optimizers)
    monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())
    monkeypatch.setattr(module, "clip_gradients", lambda *_, **__: None)
    monkeypatch.setattr(module, "log_dict", logged.update)
    before = {name: each.detach().clone() for name, each in module.named_parameters()}
    module.training_step(audio(), number)
    return {name for name, each in module.named_parameters() if (each != before[name]).any()}, logged


ENCODER, DECODER = (
    {f"codec.{part}.{name}" for name, _ in getattr(Encodec(CONFIG), part).named_parameters()}
    for part in ("encoder", "decoder")
)


@pytest.mark.parametrize("loss", ["waveform", "mel", "adversarial", "features"])
def test_every_loss_moves_the_whole_codec(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = training(losses={loss: 1.0}, commitment=0.0)
    moved, logged = step(module, 0, monkeypatch)
    assert moved & (ENCODER | DECODER) == ENCODER | DECODER
    assert set(logged) == {f"train/{loss}", "train/commitment"}
    judges = {name for name, _ in module.named_parameters() if name.startswith("discriminator.")}
    # What real and fake pull at the last bias cancels out until a logit is beyond 1.
    assert judges - moved <= {"discriminator.scales.0.head.bias"}
    assert bool(judges) == (loss in ("adversarial", "features"))


def test_commitment_moves_the_encoder_only(monkeypatch: pytest.MonkeyPatch) -> None:
    module = training(losses={"waveform": 1e-30})
    monkeypatch.setattr(module.balancer, "gradient", lambda terms, output: torch.zeros_like(output))
    assert step(module, 0, monkeypatch)[0] == ENCODER


def test_commitment_alone_is_switched_off_by_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    module = training(losses={"waveform": 1.0}, commitment=0.0)
    monkeypatch.setattr(module.balancer, "gradient", lambda terms, output: torch.zeros_like(output))
    assert step(module, 0, monkeypatch)[0] == set()


def test_the_discriminator_joins_at_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    module = training(adversarial_from=5)
    moved, logged = step(module, 4, monkeypatch)
    assert not any(name.startswith("discriminator.") for name in moved)
    assert set(logged) == {"train/waveform", "train/mel", "train/commitment"}
    moved, logged = step(module, 5, monkeypatch)
    assert any(name.startswith("discriminator.") for name in moved)
    assert {"train/adversarial", "train/features"} < set(logged)


def test_a_decoder_alone_leaves_every_token_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    module = training(losses={"mel": 1.0}, decoder_only=True)
    before = module.codec.quantize(module.codec.latents(audio()), 2)
    tables = [codebook.embed.clone() for codebook in module.codec.quantizer.codebooks]
    assert step(module, 0, monkeypatch)[0] == DECODER
    assert torch.equal(module.codec.quantize(module.codec.latents(audio()), 2), before)
    assert all(map(torch.equal, tables, (codebook.embed for codebook in module.codec.quantizer.codebooks)))


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(InputError, match="unknown loss mell: known are waveform, mel, adversarial, features"):
        CodecRecipe(losses={"mell": 1.0})


def test_the_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    module = training(learning_rate=1.0, warmup_steps=10, steps=1000)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=7.0)
    rates = []
    for number in (0, 4, 9, 500, 1000, 5000):
        module._schedule(optimizer, number)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.5, 1.0, 0.55, 0.1, 0.1], abs=1e-3)


def test_every_bandwidth_is_trained_and_every_rank_draws_the_same() -> None:
    module, other_rank = training(seed=3), training(seed=3)
    drawn = [module._codebooks_for_step(number) for number in range(100)]
    assert drawn == [other_rank._codebooks_for_step(number) for number in range(100)]
    assert 30 < drawn.count(1) < 70
    assert drawn.count(1) + drawn.count(2) == 100
    assert drawn != [training(seed=4)._codebooks_for_step(number) for number in range(100)]


def test_a_codec_that_normalises_is_trained_as_it_codes() -> None:
    """Stereo and in chunks: a training segment is what a chunk is to the codec itself."""
    torch.manual_seed(0)
    shape = {"audio_channels": 2, "normalize": True, "norm_type": "time_group_norm", "chunk_length_s": 0.1}
    codec = Encodec(replace(CONFIG, **shape, overlap=0.01))
    initialise(codec)
    module = CodecTraining(codec, CodecRecipe(**SMALL, quantiser_warmup_steps=0)).eval()
    heard = torch.cat([audio(), audio(1)], dim=1)[..., :197] * torch.tensor([0.1, 1.0, 3.0])[:, None, None]
    with torch.no_grad():
        output, _ = module.reconstruct(heard, 2)
        torch.testing.assert_close(module.reconstruct(5 * heard, 2)[0], 5 * output)
    itself = EncodecModel(codec.config, codec)
    expected = itself.decode(itself.encode(heard.numpy()))
    np.testing.assert_allclose(output.numpy(), expected, atol=1e-5)
    module.train()
    trained, commitment = module.reconstruct(heard, 2)
    terms = {name: loss() for name, loss in module._terms(heard, trained).items()}
    module._codec_loss(trained, terms, commitment).backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in codec.parameters())


@pytest.mark.parametrize("shape", [{}, {"use_causal_conv": True, "use_conv_shortcut": True}])
def test_a_new_codec_keeps_the_signal(shape: dict[str, Any]) -> None:
    """Torch's own start hardly lets the input through; ours keeps its size, and its differences."""
    torch.manual_seed(0)
    codec = Encodec(replace(CONFIG, **{"num_filters": 8, "hidden_size": 16, **shape}))
    heard = torch.randn(2, 1, 4000)
    with torch.no_grad():
        lost = codec.latents(heard).std(-1).mean()
        initialise(codec)
        kept = codec.latents(heard).std(-1).mean()
        output = codec.synthesize(torch.randn(2, 16, 200)).std(-1).mean()
    assert lost < 0.1
    assert 0.3 < kept < 3
    assert 0.3 < output < 3


def test_si_sdr_by_hand() -> None:
    reference = torch.tensor([1.0, -1.0, 1.0, -1.0]).repeat(50)[None, None]
    noise = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(50)[None, None]  # at right angles to the reference
    for db in (-10.0, 0.0, 20.0):
        output = reference + noise * 10 ** (-db / 20)
        assert si_sdr_db(output, reference).item() == pytest.approx(db, abs=1e-3)
        # Neither loudness nor an offset counts.
        assert si_sdr_db(0.1 * output + 3, reference).item() == pytest.approx(db, abs=1e-2)
    both = torch.cat([reference + noise, reference + 0.1 * noise])
    assert si_sdr_db(both, torch.cat([reference, reference])).item() == pytest.approx(10.0, abs=1e-3)


def test_a_codec_learns_and_transformers_plays_what_it_learned(
    codec_config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = codec_config(steps=24, validate_every_steps=24)
    config["recipe"] |= {"losses": {"waveform": 1.0, "mel": 1.0}, "learning_rate": 0.01}
    quiet = runs.fit
    monkeypatch.setattr(runs, "fit", lambda *args, **kwargs: quiet(*args, **kwargs, progress=False))
    folder = runs.train_codec(config)
    rows = np.genfromtxt(Path(config["run"]["folder"]) / "metrics.csv", delimiter=",", names=True)
    mel = rows["trainmel"][~np.isnan(rows["trainmel"])]
    assert mel[-4:].mean() < 0.85 * mel[0]

    ours = EncodecModel.from_pretrained(folder, backend="torch")
    theirs = transformers.EncodecModel.from_pretrained(folder).eval()
    heard = audio()[:, :, :123].numpy()
    encoded = ours.encode(heard)
    with torch.no_grad():
        expected = theirs.encode(torch.tensor(heard), bandwidth=1.5)
        sound = theirs.decode(expected.audio_codes, expected.audio_scales)[0]
    np.testing.assert_array_equal(encoded.chunks[0], expected.audio_codes[0])
    np.testing.assert_allclose(ours.decode(encoded), sound[..., :123], atol=1e-5)
