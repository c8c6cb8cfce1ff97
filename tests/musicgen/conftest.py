"""A tiny MusicGen checkpoint with random weights, written by this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch

from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import Encodec
from hemiola.musicgen import checkpoint_torch
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.decoder_torch import Decoder
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.t5_torch import T5Encoder

WORDS = ["slow", "piano", "with", "rain", "calm", "bright", "drums", "and", "a", "bass", "line", "in", "minor"]


def write_tokenizer(folder: Path) -> Path:
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: 3 + index for index, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


TINY = DecoderConfig(
    vocab_size=64,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    ffn_dim=48,
    initializer_factor=0.3,
)


def write_checkpoint(folder: Path, config: DecoderConfig = TINY) -> Path:
    torch.manual_seed(config.audio_channels)
    text = T5Encoder(T5Config(vocab_size=30, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4))
    decoder = Decoder(config, text_width=16)
    codec = Encodec(
        EncodecConfig(
            target_bandwidths=(2.4,),
            sampling_rate=800,
            num_filters=2,
            hidden_size=8,
            codebook_size=64,
            upsampling_ratios=(4, 2),
            num_lstm_layers=1,
            use_causal_conv=False,
        )
    )
    checkpoint_torch.save(folder, text, decoder, codec, write_tokenizer(folder.parent))
    return folder


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[DecoderConfig], Path]:
    """Writes a checkpoint whose decoder is as given, and returns its folder."""
    return lambda config: write_checkpoint(tmp_path_factory.mktemp("musicgen") / "given", config)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("musicgen") / "tiny")


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> MusicgenModel:
    return MusicgenModel.from_pretrained(checkpoint, backend="torch", device="cpu")


@pytest.fixture(scope="session")
def stereo_model(tmp_path_factory: pytest.TempPathFactory) -> MusicgenModel:
    config = replace(TINY, num_codebooks=8, audio_channels=2)
    folder = write_checkpoint(tmp_path_factory.mktemp("musicgen") / "tiny-stereo", config)
    return MusicgenModel.from_pretrained(folder, backend="torch", device="cpu")
