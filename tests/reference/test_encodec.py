"""The codec against transformers' EncodecModel, random weights, in the three published configurations."""

from __future__ import annotations

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
import transformers

from hemiola.backend import Backend
from hemiola.codec import encodec_torch
from hemiola.codec.config import ENCODEC_24KHZ, ENCODEC_32KHZ, ENCODEC_48KHZ, EncodecConfig
from hemiola.codec.encoded import Encoded
from hemiola.codec.model import EncodecModel

CPU = Backend("torch", "cpu", "float32")
CONFIGS = {"24khz": ENCODEC_24KHZ, "32khz": ENCODEC_32KHZ, "48khz": ENCODEC_48KHZ}
THIN_48KHZ = dataclasses.replace(ENCODEC_48KHZ, num_filters=4)
SHORT = (1, 2, 319, 320, 321, 639, 640, 641)


class Pair:
    """Their model and ours with the same weights, and signals to put through both."""

    def __init__(self, config: EncodecConfig) -> None:
        self.config = config
        values = {
            name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")
        }
        self.theirs = transformers.EncodecModel(transformers.EncodecConfig(**values)).eval()
        self._make_lively()
        tensors = {name: tensor.clone() for name, tensor in self.theirs.state_dict().items()}
        self.network = encodec_torch.load(tensors, config, CPU)
        self.ours = EncodecModel(config, self.network)

    def audio(self, samples: int, batch: int = 2) -> torch.Tensor:
        """Noise whose loudness drifts, so that chunks have different scales."""
        generator = torch.Generator().manual_seed(samples)
        noise = torch.randn(batch, self.config.channels, samples, generator=generator)
        return noise * torch.linspace(0.1, 0.5, samples) if samples > 1 else noise

    @torch.no_grad()
    def _make_lively(self) -> None:
        # As initialised, signals fade to nothing on their way down and codebooks are zeros: any mistake would hide.
        for name, parameter in self.theirs.named_parameters():
            if name.endswith("original0"):
                parameter *= 2
            elif name.endswith("conv.bias"):
                parameter *= 0.1
            elif ".norm." in name:
                parameter += 0.2 * torch.randn_like(parameter)
        spread = self.theirs.encoder(self.audio(6400)).std()
        assert spread > 0.1
        for index, layer in enumerate(self.theirs.quantizer.layers):
            codebook = layer.codebook
            codebook.embed.copy_(torch.randn_like(codebook.embed) * spread * 0.9**index)


@functools.cache
def pair_of(name: str) -> Pair:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Pair({**CONFIGS, "thin": THIN_48KHZ}[name])


@pytest.fixture(params=list(CONFIGS))
def pair(request):
    return pair_of(request.param)


def apart(ours: np.ndarray | torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, in parts of the largest value."""
    assert tuple(ours.shape) == tuple(theirs.shape)
    return float((torch.as_tensor(ours) - theirs).abs().max() / theirs.abs().max())


def agreement(ours: np.ndarray, theirs: torch.Tensor) -> float:
    """The part of the codes that is the same."""
    assert tuple(ours.shape) == tuple(theirs.shape)
    return float(np.mean(ours == theirs.numpy()))


def their_encoding(pair: Pair, audio: torch.Tensor, bandwidth: float):
    """What transformers makes of audio: codes of each chunk with the padding of the last one removed, and scales."""
    with torch.no_grad():
        found = pair.theirs.encode(audio, bandwidth=bandwidth, return_dict=True)
    codes = list(found.audio_codes)
    if found.last_frame_pad_length:
        codes[-1] = codes[-1][..., : -found.last_frame_pad_length]
    return codes, found.audio_scales, found


@pytest.mark.parametrize("samples", (*SHORT, 4567))
@torch.no_grad()
def test_latents_are_theirs(pair, samples):
    audio = pair.audio(samples)
    theirs = pair.theirs.encoder(audio)
    assert apart(pair.network.latents(audio), theirs) < 1e-4


@pytest.mark.parametrize("samples", (*SHORT, 4567))
@torch.no_grad()
def test_synthesis_is_theirs(pair, samples):
    frames = pair.config.timebase.frames(samples)
    latents = torch.randn(2, pair.config.hidden_size, frames, generator=torch.Generator().manual_seed(samples))
    theirs = pair.theirs.decoder(latents)
    assert theirs.shape[-1] == pair.config.timebase.samples_of(frames)
    assert apart(pair.network.synthesize(latents), theirs) < 1e-4


@pytest.mark.parametrize("samples", (1, 321, 4567))
def test_codes_are_theirs_at_every_bandwidth(pair, samples):
    audio = pair.audio(samples)
    for bandwidth in pair.config.target_bandwidths:
        ours = pair.ours.encode(audio.numpy(), bandwidth)
        theirs, _, _ = their_encoding(pair, audio, bandwidth)
        assert len(ours.chunks) == len(theirs) == 1
        assert agreement(ours.chunks[0], theirs[0]) >= 0.999


@torch.no_grad()
def test_dequantized_codes_are_theirs(pair):
    config = pair.config
    codes = torch.randint(config.codebook_size, (2, config.codebooks, 13), generator=torch.Generator().manual_seed(1))
    assert apart(pair.network.dequantize(codes), pair.theirs.quantizer.decode(codes.transpose(0, 1))) < 1e-5


def test_the_longest_reflection_is_theirs():
    # Dilated residual layers pad by more than the whole of a short input: zeros go in before it is reflected.
    config = EncodecConfig(
        num_filters=2, hidden_size=8, num_residual_layers=3, codebook_size=16, upsampling_ratios=(4, 3)
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        pair = Pair(config)
    for samples in (*range(1, 14), 27, 38):
        audio = pair.audio(samples)
        with torch.no_grad():
            theirs = pair.theirs.encoder(audio)
            assert apart(pair.network.latents(audio), theirs) < 1e-4
            assert apart(pair.network.synthesize(theirs), pair.theirs.decoder(theirs)) < 1e-4


@pytest.mark.parametrize(
    ("name", "samples"),
    [("48khz", 47680), *[("thin", samples) for samples in (47519, 47520, 47521, 47999, 48000, 48001, 96123)]],
)
def test_chunks_scales_and_audio_at_48_khz_are_theirs(name, samples):
    pair = pair_of(name)
    audio = pair.audio(samples)
    ours = pair.ours.encode(audio.numpy(), 3.0)
    theirs, scales, found = their_encoding(pair, audio, 3.0)
    assert len(ours.chunks) == len(theirs) == -(-samples // 47520)
    for our_codes, their_codes, our_scale, their_scale in zip(ours.chunks, theirs, ours.scales, scales):
        assert agreement(our_codes, their_codes) >= 0.999
        np.testing.assert_allclose(our_scale, their_scale.numpy(), rtol=1e-5)
    decoded = pair.ours.decode(as_encoded(theirs, scales, samples))
    with torch.no_grad():
        values = pair.theirs.decode(
            found.audio_codes, scales, last_frame_pad_length=found.last_frame_pad_length
        ).audio_values
    assert decoded.shape == audio.shape
    assert apart(decoded, values[..., :samples]) < 1e-4


def as_encoded(codes, scales, samples: int) -> Encoded:
    return Encoded(tuple(each.int().numpy() for each in codes), tuple(each.numpy() for each in scales), samples)


def test_codes_of_their_processor_with_a_chunk_more_decode():
    pair = pair_of("thin")
    # Their processor pads 48000 samples to 95520, which makes three chunks of what are two for us.
    processor = transformers.EncodecFeatureExtractor(2, 48000, chunk_length_s=1.0, overlap=0.01)
    audio = pair.audio(48000, batch=1)
    inputs = processor(audio[0].numpy(), sampling_rate=48000, return_tensors="pt")
    with torch.no_grad():
        found = pair.theirs.encode(**inputs, bandwidth=3.0, return_dict=True)
        theirs = pair.theirs.decode(
            found.audio_codes,
            found.audio_scales,
            inputs["padding_mask"],
            last_frame_pad_length=found.last_frame_pad_length,
        ).audio_values
    codes = [*found.audio_codes[:-1], found.audio_codes[-1][..., : -found.last_frame_pad_length]]
    assert len(codes) == 3
    decoded = pair.ours.decode(as_encoded(codes, found.audio_scales, 48000))
    assert apart(decoded, theirs[..., :48000]) < 1e-4


def test_a_saved_model_is_read_by_transformers(pair, tmp_path):
    encodec_torch.save(pair.network, tmp_path)
    again, report = transformers.EncodecModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["EncodecModel"]
    audio, bandwidth = pair.audio(2345), pair.config.target_bandwidths[-1]
    with torch.no_grad():
        codes = again.eval().encode(audio, bandwidth=bandwidth, return_dict=True)
        decoded = again.decode(codes.audio_codes, codes.audio_scales).audio_values
    ours = pair.ours.encode(audio.numpy(), bandwidth)
    assert agreement(ours.chunks[0], codes.audio_codes[0]) >= 0.999
    theirs = Encoded((codes.audio_codes[0].numpy(),), ours.scales, 2345)
    assert apart(pair.ours.decode(theirs), decoded[..., :2345]) < 1e-4


def test_a_folder_saved_by_transformers_is_read(pair, tmp_path):
    pair.theirs.save_pretrained(tmp_path)
    config = EncodecConfig.from_dict(json.loads((tmp_path / "config.json").read_text()))
    assert config == EncodecConfig.from_dict(pair.config.to_dict())
    network = encodec_torch.load(tmp_path, config, CPU)
    audio = pair.audio(999)
    assert torch.equal(network.latents(audio), pair.network.latents(audio))
