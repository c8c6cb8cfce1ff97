"""Tiny melody models with random weights, at MusicGen's own clock: 32 kHz, 50 frames a second."""

from __future__ import annotations

from pathlib import Path

import torch

from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import Encodec
from hemiola.musicgen import checkpoint_torch
from hemiola.musicgen.config import DecoderConfig, MelodyConfig, T5Config
from hemiola.musicgen.decoder_torch import Decoder
from hemiola.musicgen.t5_torch import T5Encoder


def write(folder: Path, tokenizer: Path, *, channels: int = 1, melody: MelodyConfig | None = None) -> Path:
    """A checkpoint in `folder`, with the tokenizer.json of 40 words at `tokenizer`."""
    with torch.random.fork_rng():
        torch.manual_seed(channels)
        text = T5Encoder(T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4))
        decoder = Decoder(
            DecoderConfig(
                vocab_size=16,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                ffn_dim=16,
                num_codebooks=4 * channels,
                audio_channels=channels,
                initializer_factor=0.3,
                melody=melody,
            ),
            text_width=16,
        )
        codec = Encodec(
            EncodecConfig(
                sampling_rate=32000,
                upsampling_ratios=(8, 5, 4, 4),
                target_bandwidths=(0.8,),
                num_filters=1,
                hidden_size=4,
                codebook_size=16,
                num_lstm_layers=1,
                use_causal_conv=False,
                use_conv_shortcut=False,
            )
        )
        checkpoint_torch.save(folder, text, decoder, codec, tokenizer)
    return folder
