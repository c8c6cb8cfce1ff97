"""Encoding and decoding: ours against transformers, with the same random weights on the same noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hemiola.bench.contest import OURS, Progress, contest, facts, ratios
from hemiola.bench.generate_torch import RIVAL
from hemiola.codec.config import ENCODEC_24KHZ, ENCODEC_32KHZ, ENCODEC_48KHZ, EncodecConfig
from hemiola.codec.encodec_torch import Encodec, to_checkpoint
from hemiola.codec.encoded import Encoded
from hemiola.codec.model import EncodecModel
from hemiola.timebase import Seconds

SIZES = {"24khz": ENCODEC_24KHZ, "32khz": ENCODEC_32KHZ, "48khz": ENCODEC_48KHZ}
_NOISE_RMS = 0.1
_CODEBOOK_RMS = 0.05


def measure(folder: Path, size: str, seconds: Seconds, rounds: int, progress: Progress | None = None) -> dict[str, Any]:
    """Seconds and memory to encode and to decode audio of that length, and how far apart the results are."""
    config = SIZES[size]
    network = lively(config)
    ours, theirs = EncodecModel(config, network), _theirs(config, network)
    audio = noise(config, seconds)
    bandwidth = config.target_bandwidths[-1]

    def encode_theirs() -> Any:
        return theirs.encode(torch.from_numpy(audio)[None], bandwidth=bandwidth)

    with torch.inference_mode():
        coded, encoded = encode_theirs(), ours.encode(audio)
    given = _same(config, encoded, coded)

    def decode_theirs() -> np.ndarray:
        return theirs.decode(coded.audio_codes, coded.audio_scales).audio_values[0].numpy()

    works: dict[str, Callable[[], object]] = {
        f"{OURS} encode": lambda: ours.encode(audio),
        f"{RIVAL} encode": encode_theirs,
        f"{OURS} decode": lambda: ours.decode(given),
        f"{RIVAL} decode": decode_theirs,
    }
    with torch.inference_mode():
        outcomes = contest(works, rounds, memory=True, progress=progress)
        apart = {}
        if not config.normalize:
            latents = theirs.encoder(torch.from_numpy(audio)[None])[0].numpy()
            apart = {
                "audio_share_of_peak": _apart(ours.decode(given), decode_theirs()[..., : audio.shape[-1]]),
                "latents_share_of_peak": _apart(ours.latents(audio), latents),
            }
    length = float(config.timebase.seconds(audio.shape[-1]))
    pairs = [{name: each for name, each in outcomes.items() if name.endswith(way)} for way in ("encode", "decode")]
    return {
        **facts(("torch", RIVAL), size=size, seconds=length, rounds=rounds),
        "threads": torch.get_num_threads(),
        "rows": {
            name: {
                "seconds": each.median,
                "times_real_time": length / each.median,
                "peak_megabytes": None if each.peak_bytes is None else each.peak_bytes / 1e6,
            }
            for name, each in outcomes.items()
        },
        "times_as_fast": {name: times for pair in pairs for name, times in ratios(pair).items()},
        "apart": apart,
    }


def lively(config: EncodecConfig) -> Encodec:
    """A codec with random weights, in whose codebooks no two entries are alike."""
    torch.manual_seed(0)
    network = Encodec(config).eval()
    for codebook in network.quantizer.codebooks:
        codebook.embed.copy_(torch.randn_like(codebook.embed) * _CODEBOOK_RMS)
    return network


def noise(config: EncodecConfig, seconds: Seconds) -> np.ndarray:
    """White noise, float32 [channels, samples]."""
    shape = config.channels, config.timebase.samples(seconds)
    return (np.random.default_rng(0).standard_normal(shape) * _NOISE_RMS).astype(np.float32)


def _theirs(config: EncodecConfig, network: Encodec) -> Any:
    import transformers

    values = {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}
    model = transformers.EncodecModel(transformers.EncodecConfig(**values)).eval()
    model.load_state_dict(to_checkpoint(network), strict=False)
    return model


def _same(config: EncodecConfig, encoded: Encoded, coded: Any) -> Encoded:
    """What both decode; where audio is normalised their chunks differ from ours, and each decodes its own."""
    if config.normalize:
        return encoded
    codes = tuple(np.asarray(chunk, np.int32) for chunk in coded.audio_codes)
    return Encoded(codes, None, encoded.length, batched=False)


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
