"""EnCodec on torch and on MLX: latents, codes and audio from the same random weights."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from hemiola.backend import Backend
from hemiola.codec import encodec_torch
from hemiola.codec.config import EncodecConfig
from hemiola.codec.model import EncodecModel

SMALL = {"sampling_rate": 1200, "upsampling_ratios": (3, 2), "num_filters": 4, "hidden_size": 6, "codebook_size": 16}
CONFIGS = {
    "causal": EncodecConfig(**SMALL, target_bandwidths=(0.8, 2.4)),
    "centred": EncodecConfig(**SMALL, target_bandwidths=(2.4,), use_causal_conv=False, use_conv_shortcut=False),
    "constant": EncodecConfig(**SMALL, target_bandwidths=(2.4,), use_causal_conv=False, pad_mode="constant"),
    "stereo": EncodecConfig(
        **SMALL,
        target_bandwidths=(2.4,),
        use_causal_conv=False,
        norm_type="time_group_norm",
        audio_channels=2,
        normalize=True,
        chunk_length_s=0.05,
        overlap=0.1,
    ),
    "dilated": EncodecConfig(**SMALL, target_bandwidths=(2.4,), num_residual_layers=3, num_lstm_layers=1),
    "trimmed": EncodecConfig(**SMALL, target_bandwidths=(2.4,), trim_right_ratio=0.5),
}
LENGTHS = (1, 2, 3, 5, 6, 7, 18, 41, 59)


@functools.cache
def models(name: str) -> tuple[EncodecModel, EncodecModel]:
    """A codec with random weights on torch and the same on MLX; its codebooks are as wide as its latents."""
    import mlx.core as mx

    config = CONFIGS[name]
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        network = encodec_torch.Encodec(config).eval()
        for index, codebook in enumerate(network.quantizer.codebooks):
            codebook.embed.copy_(torch.randn_like(codebook.embed) * 0.2 * 0.8**index)
    tensors = encodec_torch.to_checkpoint(network)
    arrays = {key: mx.array(tensor.numpy()) for key, tensor in tensors.items()}
    return (
        EncodecModel.from_tensors(tensors, config, Backend("torch", "cpu", "float32")),
        EncodecModel.from_tensors(arrays, config, Backend("mlx", "cpu", "float32")),
    )


def sound(model: EncodecModel, samples: int, batch: int) -> np.ndarray:
    audio = np.random.default_rng(samples).normal(size=(batch, model.channels, samples))
    return (audio * np.linspace(0.2, 1, samples)).astype(np.float32)


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, in parts of the largest value."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_latents_codes_and_audio_are_the_same(name: str, batch: int) -> None:
    on_torch, on_mlx = models(name)
    for samples in LENGTHS:
        audio = sound(on_torch, samples, batch)
        assert apart(on_mlx.latents(audio), on_torch.latents(audio)) < 1e-5
        wanted, found = on_torch.encode(audio), on_mlx.encode(audio)
        for their_codes, our_codes in zip(wanted.chunks, found.chunks, strict=True):
            assert our_codes.dtype == np.int32
            assert np.array_equal(our_codes, their_codes)
        assert apart(on_mlx.decode(wanted), on_torch.decode(wanted)) < 1e-5


@pytest.mark.parametrize("samples", [60, 61, 108, 131])
def test_chunks_are_the_same(samples: int) -> None:
    on_torch, on_mlx = models("stereo")
    audio = sound(on_torch, samples, batch=3)
    wanted, found = on_torch.encode(audio), on_mlx.encode(audio)
    assert len(found.chunks) == len(wanted.chunks) == -(-samples // 54)
    for codes, theirs in zip(found.chunks, wanted.chunks):
        assert np.array_equal(codes, theirs)
    assert apart(on_mlx.decode(found), on_torch.decode(wanted)) < 1e-5


def test_codes_at_a_lower_bandwidth_are_the_first_codebooks() -> None:
    on_torch, on_mlx = models("causal")
    audio = sound(on_torch, 41, batch=3)
    found = on_mlx.encode(audio, 0.8).chunks[0]
    assert found.shape[1] == 1
    assert np.array_equal(found, on_torch.encode(audio, 0.8).chunks[0])


def test_blocks_of_rows_join_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from hemiola.codec import encodec_mlx

    _, on_mlx = models("causal")
    audio = sound(on_mlx, 59, batch=3)
    whole = on_mlx.encode(audio).chunks[0]
    monkeypatch.setattr(encodec_mlx, "BLOCK_ROWS", 7)
    assert np.array_equal(on_mlx.encode(audio).chunks[0], whole)


@pytest.mark.parametrize("name", ["causal", "centred", "trimmed"])
def test_tiles_join_to_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from hemiola.codec import tiles

    models_of_one = models(name)
    audio = sound(models_of_one[0], 131, batch=2)
    codes = models_of_one[0].encode(audio)
    wholes = [(model.latents(audio), model.decode(codes)) for model in models_of_one]
    monkeypatch.setattr(tiles, "CACHE_BYTES", 1)
    monkeypatch.setattr(tiles, "LEAST_FRAMES", 4)
    monkeypatch.setattr(tiles, "DEEP_FRAMES", 6)
    for model, (latents, decoded) in zip(models_of_one, wholes):
        assert apart(model.latents(audio), latents) < 1e-5
        assert apart(model.decode(codes), decoded) < 1e-5
