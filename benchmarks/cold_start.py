"""Where the wall time of one `hemiola generate` goes, from a cold shell: medians over runs of a fresh process.

.venv/bin/python benchmarks/cold_start.py [--seconds 3] [--runs 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The same work as the command, in one process, with a clock between its parts.
PARTS = """
import sys, time
t = [time.perf_counter()]
import torch
t.append(time.perf_counter())
from hemiola import MusicGen, Request
model = MusicGen.from_pretrained("sketch", backend="torch")
t.append(time.perf_counter())
request = Request("slow piano in A minor with soft drums, 80 bpm", sys.argv[1], seed=7)
blocks = list(model.stream([request]))
t.append(time.perf_counter())
import numpy as np
samples = model.model.decode(np.concatenate([block.codes[0] for block in blocks], 1), request.samples(model.timebase))
t.append(time.perf_counter())
from hemiola import Audio
Audio(samples, model.sampling_rate).save(sys.argv[2], force=True)
t.append(time.perf_counter())
print(*[b - a for a, b in zip(t, t[1:])])
"""
NAMES = ("import torch", "load the model", "decode tokens", "tokens to audio", "write the file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", default="3")
    parser.add_argument("--runs", type=int, default=5)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        command = ["hemiola", "generate", "slow piano in A minor with soft drums, 80 bpm", "--seed", "7", "--force"]
        command = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
        command += ["--seconds", wanted.seconds, "-o", f"{place}/out.wav"]
        walls, parts = [], []
        for _ in range(wanted.runs + 1):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            walls.append(time.perf_counter() - began)
            apart = [sys.executable, "-c", PARTS, wanted.seconds, f"{place}/parts.wav"]
            parts.append([float(x) for x in subprocess.run(apart, check=True, capture_output=True).stdout.split()])
    columns = zip(NAMES, zip(*parts[1:]))
    report = {name: round(statistics.median(values), 3) for name, values in columns}
    print(json.dumps({"command, wall seconds": round(statistics.median(walls[1:]), 3), **report}, indent=2))


if __name__ == "__main__":
    main()
