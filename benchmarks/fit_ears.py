"""Fits what the ears of `hemiola eval` know of drums and keys, on synthetic music of the train split.

    python benchmarks/fit_ears.py --codec sketch

Every piece is heard as it is, twice degraded (low-passed, noisy, or with its upper partials smeared, as codecs at low
bit rates do), and, with --codec, as that codec gives it back: once as it is and once with some of its finer codes drawn
anew, as a language model may miss them. Accuracy is told by four-fold cross-validation over
pieces, and on the test split, which nothing is fitted on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from pathlib import Path

import numpy as np

from hemiola.codec.encoded import Encoded
from hemiola.codec.model import EncodecModel
from hemiola.synth.compose import compose
from hemiola.synth.harmony import KEYS, MODES
from hemiola.synth.seeds import split_seed
from hemiola.train.listening import Sound

RATE = 32000
PLACE = Path(__file__).parents[1] / "src/hemiola/train/fitted_ears.py"
DRUMS_PENALTY, KEYS_PENALTY = 1.0, 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pieces", type=int, default=400)
    parser.add_argument("--test-pieces", type=int, default=60)
    parser.add_argument("--codec", help="the checkpoint of a codec whose music the ears should know")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    settings = parser.parse_args()
    train, test = (
        Heard(split, count, settings) for split, count in (("train", settings.pieces), ("test", settings.test_pieces))
    )
    print("cross-validated on train:", crossed(train))
    drums, keys = fit_drums(train, slice(None)), fit_keys(train, slice(None))
    found = [
        f"{version}: {scores(test, test.version == version, drums, keys)}" for version in sorted(set(test.version))
    ]
    print("test split,", "; ".join(found))
    PLACE.write_text(written(drums, keys, train, settings, found), encoding="utf-8")
    print(f"written: {PLACE}; run ruff format on it")


class Heard:
    """Features of every version of the first pieces of a split: drums [N, 8], chroma [N, 4, 12], and their truth."""

    def __init__(self, split: str, pieces: int, settings: argparse.Namespace) -> None:
        listen = partial(heard_in_one, split, settings.codec)
        with ProcessPoolExecutor(settings.processes, multiprocessing.get_context("spawn")) as processes:
            found = list(chain.from_iterable(processes.map(listen, range(pieces))))
        columns = [np.array(column) for column in zip(*found)]
        self.piece, self.version, self.drums, self.chroma, self.has_drums, self.key = columns


def heard_in_one(split: str, codec: str | None, index: int) -> list[tuple]:
    """Of every version of a piece: the piece, the version, features of drums and chroma, and the truth of both."""
    piece = compose(split_seed(split, index), sample_rate=RATE)
    truth = piece.truth.drums, KEYS.index(piece.truth.key) + 12 * MODES.index(piece.truth.mode)
    found = []
    for version, samples in versions(piece.audio[0], index, codec and loaded(codec)):
        sound = Sound.of(samples, RATE)
        found.append((index, version, list(sound.drum_features().values()), sound.key_features(), *truth))
    return found


@cache
def loaded(name: str) -> EncodecModel:
    """The codec of a checkpoint, once a process."""
    return EncodecModel.from_pretrained(name)


def versions(samples: np.ndarray, seed: int, codec: EncodecModel | None) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.Generator(np.random.PCG64([seed, 5]))
    audio = samples[None].astype(np.float32)
    samples = samples.astype(np.float64)
    yield "true", samples
    yield "degraded", degraded(samples, rng)
    yield "degraded", degraded(samples, rng)
    if codec is not None:
        encoded = codec.encode(audio)
        yield "codec", codec.decode(encoded)[0]
        yield "codec, drawn anew", codec.decode(drawn_anew(encoded, rng))[0]


def drawn_anew(encoded: Encoded, rng: np.random.Generator) -> Encoded:
    """Codes of which a share, up to a half, of each codebook from the third on is drawn at random."""
    codes = encoded.chunks[0].copy()
    fine = codes[:, 2:]
    missed = rng.random(fine.shape) < rng.uniform(0, 0.5)
    fine[missed] = rng.integers(fine.max() + 1, size=missed.sum())
    return replace(encoded, chunks=(codes,))


def degraded(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    kind = rng.integers(4)
    if kind in (2, 3):
        samples = smeared(samples, rng, rng.uniform(800, 5000))
    if kind in (0, 3):
        samples = low_passed(samples, rng.uniform(3500, 11000))
    if kind in (1, 3):
        level = 10 ** (-rng.uniform(25, 45) / 20) * np.sqrt(np.mean(samples**2))
        samples = samples + level * rng.standard_normal(len(samples))
    return samples


def low_passed(samples: np.ndarray, cutoff_hz: float) -> np.ndarray:
    hz = np.fft.rfftfreq(len(samples), 1 / RATE)
    return np.fft.irfft(np.fft.rfft(samples) / np.sqrt(1 + (hz / cutoff_hz) ** 8), len(samples))


def smeared(samples: np.ndarray, rng: np.random.Generator, from_hz: float, window: int = 1024) -> np.ndarray:
    """Above `from_hz` only a coarse envelope is kept: levels averaged over nine bins, phases drawn."""
    hop, shape = window // 4, np.hanning(window + 1)[:-1]
    padded = np.pad(samples, (window, window + hop - len(samples) % hop))
    spectrum = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * shape, axis=1)
    above = np.fft.rfftfreq(window, 1 / RATE) > from_hz
    level = np.sqrt(sum(np.roll(np.abs(spectrum), shift, axis=1) ** 2 for shift in range(-4, 5)) / 9)
    spectrum[:, above] = (level * np.exp(2j * np.pi * rng.random(spectrum.shape)))[:, above]
    out = np.zeros(len(padded))
    for place, frame in enumerate(np.fft.irfft(spectrum, window, axis=1) * shape):
        out[place * hop : place * hop + window] += frame / 1.5  # squared Hann windows overlap to 1.5
    return out[window : window + len(samples)]


def fit_drums(heard: Heard, rows) -> np.ndarray:
    """Ridge logistic regression by Newton's method -> weights of the raw features, the bias last."""
    features, target = heard.drums[rows], heard.has_drums[rows].astype(float)
    mean, size = features.mean(axis=0), features.std(axis=0)
    inputs = np.column_stack([(features - mean) / size, np.ones(len(features))])
    penalty = DRUMS_PENALTY * np.eye(inputs.shape[1])
    penalty[-1, -1] = 0
    weights = np.zeros(inputs.shape[1])
    for _ in range(25):
        chance = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        curvature = (inputs * (chance * (1 - chance) + 1e-6)[:, None]).T @ inputs + penalty
        weights -= np.linalg.solve(curvature, inputs.T @ (chance - target) + penalty @ weights)
    slopes = weights[:-1] / size
    return np.append(slopes, weights[-1] - slopes @ mean)


def turned(chroma: np.ndarray) -> np.ndarray:
    """Chroma [N, 4, 12] -> [N, 24 keys, 96]: seen from each tonic, in the places of major or of minor."""
    size = chroma[0].size
    inputs = np.zeros((len(chroma), 24, 2 * size))
    for tonic in range(12):
        seen = np.roll(chroma, -tonic, axis=2).reshape(len(chroma), size)
        inputs[:, tonic, :size] = inputs[:, 12 + tonic, size:] = seen
    return inputs


def fit_keys(heard: Heard, rows) -> np.ndarray:
    """Ridge softmax over 24 keys that share their profiles up to the tonic -> [2 modes, 4 (as in key_features), 12]."""
    inputs, target = turned(heard.chroma[rows]), heard.key[rows]
    weights = np.zeros(inputs.shape[2])
    for _ in range(15):
        scores = inputs @ weights
        chance = np.exp(scores - scores.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        mean = (chance[:, :, None] * inputs).sum(axis=1)
        slope = (inputs[np.arange(len(target)), target] - mean).sum(axis=0) - KEYS_PENALTY * weights
        weighted = (inputs * chance[:, :, None]).reshape(-1, len(weights))
        curvature = weighted.T @ inputs.reshape(-1, len(weights)) - mean.T @ mean + KEYS_PENALTY * np.eye(len(weights))
        weights += np.linalg.solve(curvature, slope)
    return weights.reshape(2, -1, 12)


def scores(heard: Heard, rows, drums: np.ndarray, keys: np.ndarray) -> str:
    hit = (heard.drums[rows] @ drums[:-1] + drums[-1] > 0) == heard.has_drums[rows]
    key, true = (turned(heard.chroma[rows]) @ keys.ravel()).argmax(axis=1), heard.key[rows]
    mode = key // 12 == true // 12
    return f"drums {hit.mean():.3f}, key {np.mean(key == true):.3f}, mode {mode.mean():.3f} ({len(hit)} versions)"


def crossed(heard: Heard) -> list[str]:
    folds = [heard.piece % 4 == fold for fold in range(4)]
    return [scores(heard, fold, fit_drums(heard, ~fold), fit_keys(heard, ~fold)) for fold in folds]


def written(drums: np.ndarray, keys: np.ndarray, heard: Heard, settings: argparse.Namespace, found: list[str]) -> str:
    coded = "through a codec, and with its codes drawn anew" if settings.codec else "and nothing else"
    names = Sound.of(np.random.default_rng(0).standard_normal(RATE), RATE).drum_features()
    lines = [
        '"""What the ears know of drums and keys: constants that benchmarks/fit_ears.py fitted and wrote.',
        "",
        f"Fitted on {settings.pieces} pieces of synthetic music of the train split, as they are, degraded,",
        f"{coded}.",
        f"Right on the first {settings.test_pieces} of the test split:",
        *(f"    {each}" for each in found),
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "# Weights of Sound.drum_features; above 0 in all there are drums.",
        f"DRUMS = {{{', '.join(f'{name!r}: {weight:.4f}' for name, weight in zip(names, drums))}}}",
        f"DRUMS_BIAS = {drums[-1]:.4f}",
        "",
        "# Profiles of Sound.key_features seen from the tonic.",
        f"KEYS = {{{', '.join(f'{mode!r}: ({rounded(keys[place])})' for place, mode in enumerate(MODES))}}}",
    ]
    return "\n".join(lines) + "\n"


def rounded(profiles: np.ndarray) -> str:
    return ", ".join(f"({', '.join(f'{value:.3f}' for value in profile)})" for profile in profiles)


if __name__ == "__main__":
    main()
