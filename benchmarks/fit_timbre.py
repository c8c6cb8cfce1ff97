"""Fits what the ears of `hemiola eval` know of lead instruments, on synthetic music of the train split.

    python benchmarks/fit_timbre.py --codec sketch

Leads take turns; every piece is heard as it is, every fourth one degraded, and all as the codec gives them back, once
as it is and once with some of its finer codes drawn anew, as a language model may miss them. For what comes from the
codec there is a rule of its own. Accuracy is told on the test split, which nothing is fitted on, once over all
instruments and once over those that seeds draw.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from fit_ears import RATE, degraded, drawn_anew, loaded
from safetensors.numpy import save_file

from hemiola.synth.compose import compose
from hemiola.synth.instruments import GUESTS, LEADS
from hemiola.synth.score import Brief
from hemiola.synth.seeds import split_seed
from hemiola.train import timbre
from hemiola.train.listening import Sound

NAMES = (*LEADS, *GUESTS)
SHRINKAGE = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pieces", type=int, default=880)
    parser.add_argument("--test-pieces", type=int, default=88)
    parser.add_argument("--seconds", default="8")
    parser.add_argument("--codec", default="sketch", help="the checkpoint of a codec whose music the ears should know")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    settings = parser.parse_args()
    tensors = fitted(*heard("train", settings.pieces, settings))
    inputs, target, version = heard("test", settings.test_pieces, settings)
    found = []
    for name in sorted(set(version)):
        rows = version == name
        everyone, drawn = (right(tensors, inputs[rows], target[rows], some) for some in (NAMES, LEADS))
        found.append(f"{name}: {everyone:.3f} of {len(NAMES)} leads, {drawn:.3f} of the {len(LEADS)} that seeds draw")
    facts = {
        "names": ",".join(NAMES),
        "fitted": f"{settings.pieces} pieces of {settings.seconds} s of the train split",
        "right": f"{settings.test_pieces} pieces of the test split; " + "; ".join(found),
    }
    save_file(tensors, timbre.FITTED, facts)
    timbre.FITTED.chmod(0o644)
    print(facts["fitted"], facts["right"], f"written: {timbre.FITTED}", sep="\n")


def heard(split: str, pieces: int, settings: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of every version of the first pieces of a split, the place of each lead in NAMES, and the version."""
    listen = partial(heard_in_one, split, settings.seconds, settings.codec)
    with ProcessPoolExecutor(settings.processes, multiprocessing.get_context("spawn")) as processes:
        found = [(index, *each) for index, some in enumerate(processes.map(listen, range(pieces))) for each in some]
    indices, version, inputs = zip(*found)
    return np.array(inputs), np.array(indices) % len(NAMES), np.array(version)


def heard_in_one(split: str, seconds: str, codec_name: str, index: int) -> list[tuple[str, np.ndarray]]:
    """Each version of a piece by name, and its features."""
    codec = loaded(codec_name)
    # Every other piece in strict time, as a language model is taught.
    brief = Brief(lead=NAMES[index % len(NAMES)], frame_rate=50, strict=index // len(NAMES) % 2 == 0)
    audio = compose(split_seed(split, index), seconds=seconds, sample_rate=RATE, brief=brief).audio
    rng = np.random.Generator(np.random.PCG64([index, 7]))
    versions = {"true": audio[0]}
    if index % 4 == 1:
        versions["degraded"] = degraded(audio[0].astype(np.float64), rng)
    encoded = codec.encode(audio)
    versions["codec"] = codec.decode(encoded)[0]
    versions["codec, drawn anew"] = codec.decode(drawn_anew(encoded, rng))[0]
    return [(name, Sound.of(samples, RATE).timbre()) for name, samples in versions.items()]


def fitted(inputs: np.ndarray, target: np.ndarray, version: np.ndarray) -> dict[str, np.ndarray]:
    """What tells coded music from other music, and the rules for leads of both: `timbre.Fitted`'s tensors."""
    coded = np.char.startswith(version, "codec")
    # Apart, for what a codec does to a sound is larger than what tells two instruments from each other.
    rules = [discriminant(inputs[rows], target[rows], len(NAMES)) for rows in (~coded, coded)]
    sides, offsets = discriminant(inputs, coded.astype(int), 2)
    tensors = {
        "weights": np.stack([weights for weights, _ in rules]),
        "bias": np.stack([bias for _, bias in rules]),
        "coded_weights": sides[1] - sides[0],
        "coded_bias": offsets[1:] - offsets[:1],
    }
    # In C's order: safetensors writes an array's memory as it lies.
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}


def discriminant(inputs: np.ndarray, target: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights [classes, features] and bias [classes] of the raw features, by a linear discriminant (Fisher, 1936).

    The covariance that all classes share is drawn towards its diagonal: there are hardly more pieces than features.
    """
    mean, size = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    rows = ((inputs - mean) / size).astype(np.float64)
    centers = np.stack([rows[target == place].mean(axis=0) for place in range(classes)])
    within = rows - centers[target]
    covariance = within.T @ within / len(within)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(np.diag(covariance))
    weights = np.linalg.solve(covariance, centers.T).T
    bias = -0.5 * np.einsum("cf,cf->c", centers, weights)
    slopes = weights / size
    return slopes, bias - slopes @ mean


def right(tensors: dict[str, np.ndarray], inputs: np.ndarray, target: np.ndarray, some: tuple) -> float:
    """The share that is heard right of the pieces that one of `some` leads; the ears choose among all."""
    rule = timbre.Fitted(NAMES, **tensors)
    rows = target < len(some)
    return float(np.mean([rule.scores(each).argmax() == place for each, place in zip(inputs[rows], target[rows])]))


if __name__ == "__main__":
    main()
