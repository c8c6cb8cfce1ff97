"""A tiny text-to-music checkpoint with random weights at MusicGen's own clock: 32 kHz, 50 frames a second."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell that starts the tests in the background has Ctrl-C ignored, and children inherit that; some tests send one.
signal.signal(signal.SIGINT, signal.default_int_handler)

CAPTIONS = [
    "slow piano in a minor with soft drums, 80 bpm",
    "a bright bell melody",
    "fast organ without drums, 140 bpm",
]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the checkpoint; to be read, never changed."""
    # Only the tests that ask for the checkpoint pay for torch.
    import torch

    from hemiola.codec.config import EncodecConfig
    from hemiola.codec.encodec_torch import Encodec
    from hemiola.musicgen import checkpoint_torch
    from hemiola.musicgen.config import DecoderConfig, T5Config
    from hemiola.musicgen.decoder_torch import Decoder
    from hemiola.musicgen.t5_torch import T5Encoder
    from hemiola.train.captions import learn_tokenizer

    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = learn_tokenizer(CAPTIONS, words=40)
    tokenizer.save(str(folder / "tokenizer.json"))
    with torch.random.fork_rng():
        torch.manual_seed(4)
        text = T5Encoder(T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4))
        decoder = Decoder(
            DecoderConfig(
                vocab_size=64,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                ffn_dim=64,
                initializer_factor=0.3,
            ),
            text_width=16,
        )
        codec = Encodec(
            EncodecConfig(
                sampling_rate=32000,
                upsampling_ratios=(8, 5, 4, 4),
                target_bandwidths=(1.2,),
                num_filters=2,
                hidden_size=8,
                codebook_size=64,
                num_lstm_layers=1,
                use_causal_conv=False,
                use_conv_shortcut=False,
            )
        )
        checkpoint_torch.save(folder / "tiny", text, decoder, codec, folder / "tokenizer.json")
    return folder / "tiny"


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> dict[str, Path]:
    """Folders of still smaller checkpoints, one of each kind; each has a clock of its own."""
    import torch

    from hemiola.codec.config import EncodecConfig
    from hemiola.codec.encodec_torch import Encodec
    from hemiola.musicgen import checkpoint_torch
    from hemiola.musicgen.config import DecoderConfig, MelodyConfig, T5Config
    from hemiola.musicgen.decoder_torch import Decoder
    from hemiola.musicgen.t5_torch import T5Encoder

    kinds: list[tuple[str, int, MelodyConfig | None, int, tuple[int, ...]]] = [
        ("mono", 1, None, 32000, (8, 5, 4, 4)),
        ("stereo", 2, None, 24000, (8, 5, 4, 4)),
        ("melody", 1, MelodyConfig(), 32000, (8, 5, 4, 4)),
        ("stereo-melody", 2, MelodyConfig(chroma_length=100), 16000, (8, 8, 5)),
    ]
    root = tmp_path_factory.mktemp("family")
    for name, channels, melody, sampling_rate, ratios in kinds:
        sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "ffn_dim": 16}
        books = {"vocab_size": 16, "num_codebooks": 4 * channels, "audio_channels": channels}
        clock = {"sampling_rate": sampling_rate, "upsampling_ratios": ratios, "target_bandwidths": (0.8,)}
        small = {"num_filters": 2, "hidden_size": 4, "codebook_size": 16, "num_lstm_layers": 1}
        with torch.random.fork_rng():
            torch.manual_seed(channels)
            checkpoint_torch.save(
                root / name,
                T5Encoder(T5Config(vocab_size=40, d_model=12, d_kv=4, d_ff=24, num_layers=1, num_heads=4)),
                Decoder(DecoderConfig(**sizes, **books, initializer_factor=0.3, melody=melody), text_width=12),
                Encodec(EncodecConfig(**clock, **small, use_causal_conv=False, use_conv_shortcut=False)),
                tiny / "tokenizer.json",
            )
    return {name: root / name for name, *_ in kinds}
