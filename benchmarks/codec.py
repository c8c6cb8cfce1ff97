"""Encoding and decoding, ours against transformers: the same random weights, one run, taking turns, medians.

.venv/bin/python benchmarks/codec.py [--codec 24khz|32khz|48khz] [--seconds 30] [--rounds 5] [--threads 2]
.venv/bin/python benchmarks/codec.py --memory [--seconds 600]     # peak memory of ours, in a process that does no more
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from hemiola.backend import Backend
from hemiola.codec.config import ENCODEC_24KHZ, ENCODEC_32KHZ, ENCODEC_48KHZ, EncodecConfig
from hemiola.codec.encodec_torch import Encodec, to_checkpoint
from hemiola.codec.model import EncodecModel, Encoded

CODECS = {"24khz": ENCODEC_24KHZ, "32khz": ENCODEC_32KHZ, "48khz": ENCODEC_48KHZ}


def lively(config: EncodecConfig) -> Encodec:
    """A codec with random weights, in whose codebooks no two entries are alike."""
    torch.manual_seed(0)
    network = Encodec(config).eval()
    for codebook in network.quantizer.codebooks:
        codebook.embed.copy_(torch.randn_like(codebook.embed) * 0.05)
    return network


def sound(config: EncodecConfig, seconds: float) -> np.ndarray:
    samples = config.timebase.samples(seconds)
    return (np.random.default_rng(0).standard_normal((config.channels, samples)) * 0.1).astype(np.float32)


def theirs(config: EncodecConfig, network: Encodec) -> Callable:
    """transformers' model with the same weights."""
    import transformers

    values = {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}
    model = transformers.EncodecModel(transformers.EncodecConfig(**values)).eval()
    model.load_state_dict(to_checkpoint(network), strict=False)
    return model


def turns(config: EncodecConfig, seconds: float, rounds: int) -> dict[str, object]:
    network = lively(config)
    model, other = EncodecModel(config, network), theirs(config, network)
    audio = sound(config, seconds)
    bandwidth = config.target_bandwidths[-1]

    @torch.inference_mode()
    def encode_theirs() -> object:
        return other.encode(torch.from_numpy(audio)[None], bandwidth=bandwidth)

    coded, encoded = encode_theirs(), model.encode(audio)

    @torch.inference_mode()
    def decode_theirs() -> np.ndarray:
        return other.decode(coded.audio_codes, coded.audio_scales).audio_values[0].numpy()

    def decode_same() -> np.ndarray:
        # Their chunks differ from ours at 48 kHz; what is decoded must be the same work.
        return model.decode(same)

    codes = tuple(np.asarray(chunk, np.int32) for chunk in coded.audio_codes)
    scales = None if not config.normalize else tuple(np.asarray(each, np.float32) for each in coded.audio_scales)
    same = encoded if config.normalize else Encoded(codes, scales, audio.shape[-1], batched=False)
    report: dict[str, object] = {}
    works = {"encode": (lambda: model.encode(audio), encode_theirs), "decode": (decode_same, decode_theirs)}
    for name, (ours_run, their_run) in works.items():
        rows = [(timed(ours_run), timed(their_run)) for _ in range(rounds)]
        report[name] = {
            "ours_seconds": round(statistics.median(row[0] for row in rows), 3),
            "transformers_seconds": round(statistics.median(row[1] for row in rows), 3),
            "ratio": round(statistics.median(row[1] / row[0] for row in rows), 2),
            "real_time_factor": round(seconds / statistics.median(row[0] for row in rows), 1),
        }
    if not config.normalize:
        report["codes_equal"] = float(np.mean(encoded.chunks[0] == codes[0]))
        found, expected = decode_same(), decode_theirs()[..., : audio.shape[-1]]
        report["audio_apart"] = float(np.abs(found - expected).max() / np.abs(expected).max())
    return report


def memory(config: EncodecConfig, seconds: float) -> dict[str, object]:
    """Peak memory of a stream of codes and back, a second at a time: nothing is kept, so length must not show."""
    model = EncodecModel.from_tensors(lively(config).state_dict(), config, Backend("torch", "cpu", "float32"))
    second, before = sound(config, 1), peak_megabytes()
    parts = model.encode_stream(second for _ in range(round(seconds)))
    samples = sum(block.shape[-1] for block in model.decode_stream(parts))
    return {"samples": samples, "loaded_mb": before, "peak_mb": peak_megabytes()}


def peak_megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", choices=CODECS, default="24khz")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true")
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    config = CODECS[wanted.codec]
    measured = memory(config, wanted.seconds) if wanted.memory else turns(config, wanted.seconds, wanted.rounds)
    report = {
        "codec": wanted.codec,
        "seconds": wanted.seconds,
        **measured,
        "rounds": wanted.rounds,
        "threads": wanted.threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {"torch": torch.__version__},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
