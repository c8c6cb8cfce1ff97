"""Chroma: which pitch class is the loudest, row by row; how a tune is shown to a melody model."""

from __future__ import annotations

import functools

import numpy as np

from hemiola.musicgen.config import MelodyConfig

# Of the published melody models, in samples: half a second seen at once, and a row every eighth of a second.
WINDOW = 2**14
STRIDE = 2**12

_A0_HZ = 27.5
_CENTER_OCTAVE, _OCTAVES_WIDE = 5, 2  # what is far from the middle of a keyboard counts less
_FROM_A_TO_C = 3  # twelfths of an octave


def loudest(samples: np.ndarray, sample_rate: int, classes: int) -> np.ndarray:
    """Mono audio [n] -> float32 [1 + max(n, WINDOW) // STRIDE, classes], 1 at each row's loudest pitch class, else 0.

    Class 0 is C; silence is C as well. The power spectrum around every STRIDE-th sample is weighed by `filters`.
    Source: the chroma of MusicGen (arXiv 2306.05284, 2.3), whose filters are librosa's.
    """
    short = max(0, WINDOW - len(samples))
    padded = np.pad(samples.astype(np.float64), (short // 2, short - short // 2))
    padded = np.pad(padded, WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STRIDE]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2
    energy = power @ filters(sample_rate, classes).T
    return np.eye(classes, dtype=np.float32)[energy.argmax(axis=1)]


@functools.lru_cache(maxsize=4)
def filters(sample_rate: int, classes: int) -> np.ndarray:
    """What each bin of a spectrum adds to each pitch class, float64 [classes, WINDOW / 2 + 1], read-only.

    A bin adds to classes in a bell around its pitch, at least half a class wide; each bin's weights have length 1,
    times a bell over the octaves.
    """
    hz = np.arange(1, WINDOW) * sample_rate / WINDOW
    pitch = classes * np.log2(hz / _A0_HZ)
    # 0 Hz has no pitch: it is put one and a half octaves below the lowest bin.
    pitch = np.concatenate([[pitch[0] - 1.5 * classes], pitch])
    widths = np.append(np.maximum(np.diff(pitch), 1), 1)
    half = np.round(classes / 2)
    away = (pitch - np.arange(classes)[:, None] + half) % classes - half
    bells = np.exp(-2 * (away / widths) ** 2)
    bells /= np.linalg.norm(bells, axis=0)
    bells *= np.exp(-0.5 * ((pitch / classes - _CENTER_OCTAVE) / _OCTAVES_WIDE) ** 2)
    weights = np.roll(bells, -_FROM_A_TO_C * (classes // 12), axis=0)[:, : WINDOW // 2 + 1]
    weights.setflags(write=False)
    return weights


def fitted(rows: np.ndarray, length: int) -> np.ndarray:
    """Rows [n, classes], repeated from the start or cut, so that there are `length`."""
    return np.tile(rows, (-(-length // len(rows)), 1))[:length]


def null(config: MelodyConfig) -> np.ndarray:
    """The rows that stand for no tune, float32 [chroma_length, num_chroma]: what silence gives."""
    rows = np.zeros((config.chroma_length, config.num_chroma), np.float32)
    rows[:, 0] = 1
    return rows
