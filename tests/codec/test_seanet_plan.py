"""What the plan says about lengths and reach, against networks that are poked to see what moves."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola.codec import plan
from hemiola.codec.config import ENCODEC_24KHZ, ENCODEC_32KHZ, ENCODEC_48KHZ, EncodecConfig
from hemiola.codec.encodec_torch import Encodec

PRESETS = {"24khz": ENCODEC_24KHZ, "32khz": ENCODEC_32KHZ, "48khz": ENCODEC_48KHZ}
DEEP = EncodecConfig(upsampling_ratios=(3, 2), num_residual_layers=2, use_causal_conv=False)


def thin(config: EncodecConfig) -> EncodecConfig:
    """The same wiring with hardly any channels, since only time is looked at."""
    return dataclasses.replace(config, num_filters=2, hidden_size=4, target_bandwidths=(1.5,))


def convolutions_only(config: EncodecConfig) -> Encodec:
    """A random network in float64 whose LSTM adds nothing and whose norms do nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Encodec(thin(config)).double().eval()
    for module in model.modules():
        if hasattr(module, "lstm"):
            for parameter in module.lstm.parameters():
                torch.nn.init.zeros_(parameter)
        if hasattr(module, "norm"):
            module.norm = torch.nn.Identity()
    return model


@torch.no_grad()
def moved(network: torch.nn.Module, x: torch.Tensor, index: int) -> tuple[int, int]:
    """The first and the last output that a change of input `index` moves."""
    poked = x.clone()
    poked[..., index] += 1
    places = (network(poked) - network(x)).abs().amax((0, 1)).nonzero()
    return int(places[0]), int(places[-1])


@pytest.fixture(scope="module", params=[*PRESETS.values(), DEEP], ids=[*PRESETS, "deep"])
def model(request):
    return convolutions_only(request.param)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def test_a_poked_frame_moves_the_samples_that_the_plan_says(model):
    for frame in (20, 21):
        found = moved(model.decoder, noise(1, 4, 40), frame)
        assert found == plan.outputs_moved(plan.decoder_plan(model.config), (frame, frame))


def test_a_poked_sample_moves_the_frames_that_the_plan_says(model):
    specs = plan.encoder_plan(model.config)
    audio = noise(1, model.config.channels, 30 * plan.hop(specs))
    for sample in (audio.shape[-1] // 2, audio.shape[-1] // 2 + 1, audio.shape[-1] // 2 + 17):
        assert moved(model.encoder, audio, sample) == plan.outputs_moved(specs, (sample, sample))


def test_a_latent_reads_no_further_than_its_receptive_field(model):
    specs = plan.encoder_plan(model.config)
    frame = 15
    audio = noise(1, model.config.channels, 30 * plan.hop(specs)).requires_grad_()
    model.encoder(audio)[..., frame].sum().backward()
    read = audio.grad.abs().amax((0, 1)).nonzero()
    first, last = int(read[0]), int(read[-1])
    assert (first, last) == plan.inputs_read(specs, (frame, frame))
    assert plan.receptive_field(specs) == last - first + 1
    assert plan.look_ahead_samples(specs) == max(0, last + 1 - (frame + 1) * plan.hop(specs))


def test_a_sample_reads_as_many_frames_as_the_receptive_field(model):
    specs = plan.decoder_plan(model.config)
    most = 0
    for phase in range(0, plan.hop(specs), max(1, plan.hop(specs) // 16)):
        latents = noise(1, 4, 30).requires_grad_()
        sample = 15 * plan.hop(specs) + phase
        model.decoder(latents)[..., sample].sum().backward()
        read = latents.grad.abs().amax((0, 1)).nonzero()
        assert (int(read[0]), int(read[-1])) == plan.inputs_read(specs, (sample, sample))
        most = max(most, int(read[-1] - read[0]) + 1)
    assert most == plan.receptive_field(specs)


@torch.no_grad()
def test_samples_before_the_look_ahead_are_final(model):
    specs = plan.decoder_plan(model.config)
    latents = noise(1, 4, 30)
    whole, part = model.decoder(latents), model.decoder(latents[..., :20])
    final = 20 * plan.hop(specs) - plan.look_ahead_samples(specs)
    torch.testing.assert_close(part[..., :final], whole[..., :final], rtol=0, atol=1e-12)
    if plan.look_ahead_samples(specs):
        assert not torch.allclose(part[..., final], whole[..., final], rtol=0, atol=1e-9)


def test_the_published_decoders_look_ahead_so_far():
    decoders = [plan.decoder_plan(config) for config in PRESETS.values()]
    assert [plan.look_ahead_samples(each) for each in decoders] == [0, 2402, 1203]
    assert [plan.receptive_field(each) for each in decoders] == [9, 9, 9]


def test_the_index_in_the_plan_is_the_index_in_the_checkpoint():
    # Where facebook/encodec_24khz has its LSTMs and its first and last strided convolutions.
    encoder, decoder = plan.encoder_plan(ENCODEC_24KHZ), plan.decoder_plan(ENCODEC_24KHZ)
    assert [encoder[index].stride for index in (0, 3, 6, 9, 12, 15)] == [1, 2, 4, 5, 8, 1]
    assert [decoder[index].stride for index in (0, 3, 6, 9, 12, 15)] == [1, 8, 5, 4, 2, 1]
    assert encoder[13] == decoder[1] == plan.Lstm(512, 2)


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
@given(samples=st.integers(1, 10**12))
def test_frames_are_those_of_the_timebase(config, samples):
    encoder, decoder = plan.encoder_plan(config), plan.decoder_plan(config)
    frames = plan.output_length(encoder, samples)
    assert frames == config.timebase.frames(samples)
    assert plan.output_length(decoder, frames) == config.timebase.samples_of(frames)
    assert plan.hop(encoder) == plan.hop(decoder) == config.timebase.hop


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(1, 2500),
    ratios=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    causal=st.booleans(),
    pad_mode=st.sampled_from(["reflect", "constant"]),
    norm_type=st.sampled_from(["weight_norm", "time_group_norm"]),
)
@torch.no_grad()
def test_networks_are_as_long_as_planned(samples, ratios, causal, pad_mode, norm_type):
    config = thin(
        EncodecConfig(
            upsampling_ratios=tuple(ratios),
            use_causal_conv=causal,
            pad_mode=pad_mode,
            norm_type=norm_type,
            num_residual_layers=2,
        )
    )
    model = Encodec(config)
    latents = model.latents(torch.ones(2, 1, samples))
    assert latents.shape == (2, 4, config.timebase.frames(samples))
    assert model.synthesize(latents).shape == (2, 1, config.timebase.samples_of(latents.shape[-1]))
