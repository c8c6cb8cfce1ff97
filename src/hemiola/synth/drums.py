"""Drum sounds: every kit's kick, snare, clap, hats and tom, made once for a sample rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hemiola.timebase import Timebase


@dataclass(frozen=True)
class Kit:
    """How a kit sounds: kick and snare pitch in hz, decays in seconds, and levels of each drum."""

    kick_hz: float
    kick_seconds: float
    click: float
    snare_hz: float
    snare_seconds: float
    hat_seconds: float
    level_db: float
    levels: tuple[tuple[str, float], ...] = (
        ("kick", 1.0), ("snare", 0.6), ("clap", 0.6), ("hat", 0.14), ("open", 0.15), ("tom", 0.5),
    )  # fmt: skip


KIT_SOUNDS: dict[str, Kit] = {
    "soft": Kit(62, 0.12, 0.1, 190, 0.04, 0.02, level_db=-5),
    "acoustic": Kit(58, 0.14, 0.35, 185, 0.06, 0.03, level_db=0),
    "electronic": Kit(48, 0.26, 0.25, 230, 0.05, 0.018, level_db=0.5),
    "driving": Kit(54, 0.17, 0.6, 200, 0.08, 0.03, level_db=2.5),
}


@lru_cache(maxsize=64)
def sound_drum(kit: str, drum: str, sample_rate: int) -> np.ndarray:
    """One stroke at full velocity, float32 [samples], read-only."""
    sound = KIT_SOUNDS[kit]
    makers = {"kick": _kick, "snare": _snare, "clap": _clap, "hat": _hat, "open": _open_hat, "tom": _tom}
    wave = makers[drum](sound, sample_rate) * dict(sound.levels)[drum]
    fade = min(len(wave), 64)
    wave[-fade:] *= np.linspace(1, 0, fade)
    stroke = wave.astype(np.float32)
    stroke.flags.writeable = False
    return stroke


def _kick(kit: Kit, rate: int) -> np.ndarray:
    t = _moments(6 * kit.kick_seconds, rate)
    # The pitch falls from four times the resting frequency; its integral is the phase.
    cycles = kit.kick_hz * (t + 3 * 0.025 * (1 - np.exp(-t / 0.025)))
    click = kit.click * np.exp(-t / 0.002) * _noise(len(t), 1)
    return np.sin(2 * math.pi * cycles) * np.exp(-t / kit.kick_seconds) * np.minimum(t / 0.001, 1) + click


def _snare(kit: Kit, rate: int) -> np.ndarray:
    t = _moments(6 * kit.snare_seconds, rate)
    shell = np.sin(2 * math.pi * kit.snare_hz * t) + 0.6 * np.sin(2 * math.pi * 1.6 * kit.snare_hz * t)
    wires = _high_passed(_noise(len(t), 2), 1500, rate)
    return 0.8 * shell * np.exp(-t / 0.06) + 0.4 * wires * np.exp(-t / kit.snare_seconds)


def _clap(kit: Kit, rate: int) -> np.ndarray:
    t = _moments(0.5, rate)
    hands = sum(np.where(t >= late, np.exp(-(t - late) / 0.006), 0) for late in (0.0, 0.011, 0.023))
    tail = np.where(t >= 0.03, 0.7 * np.exp(-(t - 0.03) / 0.045), 0)
    return _high_passed(_noise(len(t), 3), 900, rate) * (hands + tail)


def _hat(kit: Kit, rate: int) -> np.ndarray:
    t = _moments(6 * kit.hat_seconds, rate)
    return _high_passed(_noise(len(t), 4), 6000, rate) * np.exp(-t / kit.hat_seconds)


def _open_hat(kit: Kit, rate: int) -> np.ndarray:
    t = _moments(0.5, rate)
    return _high_passed(_noise(len(t), 5), 5500, rate) * np.exp(-t / 0.08)


def _tom(kit: Kit, rate: int) -> np.ndarray:
    t = _moments(0.5, rate)
    cycles = 2 * kit.kick_hz * (t + 0.6 * 0.05 * (1 - np.exp(-t / 0.05)))
    return np.sin(2 * math.pi * cycles) * np.exp(-t / 0.12)


def _moments(seconds: float, rate: int) -> np.ndarray:
    return np.arange(max(1, Timebase(rate, 1).samples(seconds))) / rate


def _noise(samples: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(samples)


def _high_passed(noise: np.ndarray, cutoff_hz: float, rate: int) -> np.ndarray:
    """Noise without what lies below the cutoff (a third of the rate at most), at its old loudness."""
    spectrum = np.fft.rfft(noise)
    hz = np.fft.rfftfreq(len(noise), 1 / rate)
    cutoff_hz = min(cutoff_hz, rate / 3)
    passed = np.fft.irfft(spectrum * hz**4 / (hz**4 + cutoff_hz**4), len(noise))
    return passed / (np.sqrt(np.mean(passed**2)) + 1e-9)
