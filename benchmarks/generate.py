"""Milliseconds a decoding step, ours against transformers: the same random weights, one run, taking turns, medians.

.venv/bin/python benchmarks/generate.py [--size sketch|small] [--steps 60] [--rounds 5] [--dtype float32]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers

from hemiola.codec.config import ENCODEC_32KHZ
from hemiola.codec.encodec_torch import Encodec
from hemiola.musicgen import checkpoint_torch
from hemiola.musicgen.batch import Job
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.decoder_torch import Decoder
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.t5_torch import T5Encoder
from hemiola.train.captions import learn_tokenizer

PROMPT = "slow piano in a minor with soft drums, 80 bpm"
SIZES = {
    "sketch": DecoderConfig(512, 256, 4, 4, 1024),
    "small": DecoderConfig(2048, 1024, 24, 16, 4096),
}


def write_checkpoint(folder: Path, decoder: DecoderConfig) -> None:
    """A MusicGen of one size with random weights and a small text encoder."""
    torch.manual_seed(0)
    learn_tokenizer([PROMPT], 64).save(str(folder / "tokenizer.json"))
    text = T5Config(vocab_size=64, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    codec = ENCODEC_32KHZ.from_dict(
        {**ENCODEC_32KHZ.to_dict(), "num_filters": 4, "codebook_size": decoder.vocab_size, "target_bandwidths": [2.2]}
    )
    parts = T5Encoder(text), Decoder(decoder, 64), Encodec(codec)
    checkpoint_torch.save(folder / "model", *parts, folder / "tokenizer.json")


def ours(folder: Path, dtype: str, frames: int) -> tuple[object, int]:
    model = MusicgenModel.from_pretrained(folder, backend="torch", device="cpu", dtype=dtype)
    return (lambda: list(model.tokens([Job(PROMPT, frames, seed=1)]))), model.config.decoder.pattern.steps(frames)


def theirs(folder: Path, dtype: str, steps: int) -> object:
    model = transformers.MusicgenForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folder)([PROMPT], return_tensors="pt")
    model.audio_encoder.decode = lambda codes, audio_scales: type("Nothing", (), {"audio_values": codes})()
    settings = {"do_sample": True, "guidance_scale": 3.0, "top_k": 250, "max_new_tokens": steps}
    return lambda: model.generate(**inputs, **settings)


def timed(function: object, steps: int) -> float:
    began = time.perf_counter()
    function()  # type: ignore[operator]
    return (time.perf_counter() - began) * 1000 / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="sketch")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        write_checkpoint(Path(place), SIZES[wanted.size])
        folder = Path(place) / "model"
        our_run, steps = ours(folder, wanted.dtype, wanted.steps - 3)
        their_run = theirs(folder, wanted.dtype, wanted.steps)
        for run in (our_run, their_run):
            timed(run, steps)  # warm up
        rows = [(timed(our_run, steps), timed(their_run, steps)) for _ in range(wanted.rounds)]
    report = {
        "size": wanted.size,
        "dtype": wanted.dtype,
        "steps": steps,
        "ours_ms_per_step": round(statistics.median(row[0] for row in rows), 2),
        "transformers_ms_per_step": round(statistics.median(row[1] for row in rows), 2),
        "ratio": round(statistics.median(row[1] / row[0] for row in rows), 2),
        "rounds": wanted.rounds,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
