"""Peak memory of a codec's stream, encoded and decoded a second at a time: nothing is kept, so length must not show.

.venv/bin/python benchmarks/stream_memory.py [--codec 24khz|32khz|48khz] [--seconds 600]
"""

from __future__ import annotations

import argparse
import json
import resource

from hemiola.backend import Backend
from hemiola.bench.codec_torch import SIZES, lively, noise
from hemiola.codec.model import EncodecModel


def peak_megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", choices=SIZES, default="24khz")
    parser.add_argument("--seconds", type=int, default=600)
    wanted = parser.parse_args()
    config = SIZES[wanted.codec]
    model = EncodecModel.from_tensors(lively(config).state_dict(), config, Backend("torch", "cpu", "float32"))
    second, loaded = noise(config, 1), peak_megabytes()
    parts = model.encode_stream(second for _ in range(wanted.seconds))
    samples = sum(block.shape[-1] for block in model.decode_stream(parts))
    report = {"codec": wanted.codec, "samples": samples, "loaded_mb": loaded, "peak_mb": peak_megabytes()}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
