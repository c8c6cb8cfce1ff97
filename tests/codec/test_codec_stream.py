"""Blocks of any size join to what the networks make of the whole at once."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import DecoderStream, Encodec, EncoderStream

THIN = {"num_filters": 4, "hidden_size": 8, "codebook_size": 16}
CONFIGS = {
    "24khz": EncodecConfig(**THIN, target_bandwidths=(1.2,)),
    "32khz": EncodecConfig(
        **THIN,
        target_bandwidths=(0.8,),
        sampling_rate=32000,
        upsampling_ratios=(8, 5, 4, 4),
        use_causal_conv=False,
        use_conv_shortcut=False,
    ),
    "constant": EncodecConfig(**THIN, target_bandwidths=(1.2,), pad_mode="constant", use_causal_conv=False),
    "trimmed": EncodecConfig(**THIN, target_bandwidths=(1.2,), trim_right_ratio=0.5, num_lstm_layers=1),
    "dilated": EncodecConfig(**THIN, target_bandwidths=(1.2,), num_residual_layers=3, upsampling_ratios=(5, 3)),
}
LENGTHS = (1, 2, 319, 320, 321, 641, 960, 4003)


@functools.cache
def codec(name: str) -> Encodec:
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        model = Encodec(CONFIGS[name]).eval()
        for book in model.quantizer.codebooks:
            book.embed.copy_(torch.randn_like(book.embed))
        for parameter in model.parameters():
            # As initialised, a signal fades on its way: mistakes at the edges would hide.
            parameter.data *= 1.6
    return model


def cut(array: np.ndarray, rng: np.random.Generator, longest: int) -> list[np.ndarray]:
    """The last axis in blocks of random sizes, none at all among them."""
    blocks, start = [], 0
    while start < array.shape[-1]:
        size = int(rng.integers(0, longest + 1))
        blocks.append(array[..., start : start + size])
        start += size
    return blocks


def joined(feed, blocks: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([feed(block, index == len(blocks) - 1) for index, block in enumerate(blocks)], axis=-1)


def apart(found: np.ndarray, expected: torch.Tensor) -> float:
    """The largest difference, in parts of the largest value."""
    assert found.shape == tuple(expected.shape)
    return float(np.abs(found - expected.numpy()).max() / expected.abs().max())


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_blocks_of_audio_join_to_the_latents_of_the_whole(name: str, rows: int) -> None:
    model, rng = codec(name), np.random.default_rng(rows)
    for samples in LENGTHS:
        audio = rng.standard_normal((rows, 1, samples)).astype(np.float32)
        expected = model.latents(torch.tensor(audio))
        for longest in (samples, 7 + samples // 5):
            assert apart(joined(EncoderStream(model), cut(audio, rng, longest)), expected) < 1e-5


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_blocks_of_codes_join_to_the_audio_of_the_whole(name: str, rows: int) -> None:
    model, rng = codec(name), np.random.default_rng(rows)
    for frames in (1, 2, 3, 4, 5, 8, 31):
        codes = rng.integers(0, 16, (rows, 3, frames)).astype(np.int32)
        expected = model.synthesize(model.dequantize(torch.tensor(codes)))
        for longest in (1, 2, frames):
            assert apart(joined(DecoderStream(model), cut(codes, rng, longest)), expected) < 1e-5
