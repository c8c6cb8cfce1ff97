"""The configuration, read from and written to config.json."""

from __future__ import annotations

import dataclasses

import pytest

from hemiola.codec.config import ENCODEC_32KHZ
from hemiola.errors import WeightsError
from hemiola.musicgen.config import DecoderConfig, MusicgenConfig, T5Config

T5_BASE = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12)
CODEC = dataclasses.replace(ENCODEC_32KHZ, codebook_dim=128)


@pytest.mark.parametrize(
    "config",
    [
        MusicgenConfig(T5_BASE, DecoderConfig(), CODEC),
        MusicgenConfig(T5_BASE, DecoderConfig(num_codebooks=8, audio_channels=2), CODEC),
        MusicgenConfig(T5Config(feed_forward_proj="gated-gelu"), DecoderConfig(hidden_size=1536), CODEC),
    ],
)
def test_writing_and_reading_gives_the_same(config: MusicgenConfig) -> None:
    assert MusicgenConfig.from_dict(config.to_dict()) == config


def test_what_a_config_leaves_out_has_hugging_faces_defaults() -> None:
    assert DecoderConfig.from_dict({}) == DecoderConfig(2048, 1024, 24, 16, 4096, 4, 1)
    assert T5Config.from_dict({}).d_model == 512


def test_delays_of_mono_and_stereo() -> None:
    assert DecoderConfig().pattern.delays == (0, 1, 2, 3)
    assert DecoderConfig(num_codebooks=8, audio_channels=2).pattern.delays == (0, 0, 1, 1, 2, 2, 3, 3)
    assert DecoderConfig().pattern.special == 2048


@pytest.mark.parametrize(
    "values",
    [
        {"num_codebooks": 7, "audio_channels": 2},
        {"audio_channels": 3},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": True},
        {"hidden_size": 1023},
        {"tie_word_embeddings": True},
        {"model_type": "musicgen_melody_decoder"},
        {"bos_token_id": 0},
    ],
)
def test_a_decoder_that_is_not_supported_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(
        WeightsError, match=next(iter(values)).replace("num_codebooks", "7 codebooks").replace("_", ".")
    ):
        DecoderConfig.from_dict(values)


def test_a_missing_part_is_named() -> None:
    values = MusicgenConfig(T5_BASE, DecoderConfig(), CODEC).to_dict()
    del values["audio_encoder"]
    with pytest.raises(WeightsError, match="'audio_encoder'"):
        MusicgenConfig.from_dict(values)


def test_more_codebooks_than_the_codec_has_are_refused() -> None:
    with pytest.raises(WeightsError, match="8 codebooks"):
        MusicgenConfig(T5_BASE, DecoderConfig(num_codebooks=8), CODEC)
    stereo_codec = dataclasses.replace(ENCODEC_32KHZ, audio_channels=2)
    with pytest.raises(WeightsError, match="mono codec"):
        MusicgenConfig(T5_BASE, DecoderConfig(), stereo_codec)
