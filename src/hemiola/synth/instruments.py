"""Pitched instruments: each a few layers of harmonics that fade at their own pace, and how a note of it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hemiola.timebase import Timebase

_TABLE_BITS = 14
_PHASE_BITS = 32
_HIGHEST = 0.45  # of the sample rate: harmonics above are left out, so nothing aliases
_NOISE_SEED = 1865


@dataclass(frozen=True)
class Layer:
    """Harmonics of `ratio` times the pitch that share a decay (seconds to 1/e at middle C; inf sustains)."""

    harmonics: tuple[float, ...]
    decay_seconds: float = math.inf
    ratio: float = 1.0
    upper: bool = False  # an upper layer grows with velocity, so that a louder note is a brighter one


@dataclass(frozen=True)
class Instrument:
    """A timbre as data. `compass` is the melody's range and `chord_low` the lowest chord note, in MIDI pitch."""

    layers: tuple[Layer, ...]
    attack_seconds: float = 0.002
    release_seconds: float = 0.06
    vibrato_cents: float = 0.0
    tap: float = 0.0  # loudness of the noise of hammer, pick or breath that starts a note
    compass: tuple[int, int] = (60, 84)
    chord_low: int = 55


def _saw(first: int, last: int, slope: float = 1.0) -> tuple[float, ...]:
    return tuple(0.0 if k < first else k**-slope for k in range(1, last + 1))


def _plucked(first: int, last: int, place: float) -> tuple[float, ...]:
    """A string's harmonics when it is plucked at a fraction of its length."""
    return tuple(0.0 if k < first else math.sin(math.pi * k * place) / k for k in range(1, last + 1))


INSTRUMENTS: dict[str, Instrument] = {
    "piano": Instrument(
        (
            Layer((1.0, 0.5, 0.3), 1.1),
            Layer((0.5, 0.3), 0.9, ratio=1.0011),
            Layer((0, 0, 0, 0.36, 0.28, 0.22), 0.45, upper=True),
            Layer((0, 0, 0, 0, 0, 0, 0.17, 0.13, 0.11, 0.09, 0.07), 0.2, upper=True),
        ),
        release_seconds=0.09,
        tap=0.08,
    ),
    "guitar": Instrument(
        (
            Layer(_plucked(1, 2, 0.2), 0.55),
            Layer(_plucked(3, 7, 0.2), 0.28),
            Layer(tuple(1.6 * a for a in _plucked(8, 22, 0.13)), 0.09, upper=True),
        ),
        attack_seconds=0.001,
        tap=0.22,
        compass=(57, 79),
        chord_low=52,
    ),
    "bells": Instrument(
        (
            Layer((1.0,), 1.1),
            Layer((0.6,), 0.9, ratio=2.003),
            Layer((0.45,), 0.6, ratio=2.76, upper=True),
            Layer((0.3,), 0.3, ratio=5.404, upper=True),
        ),
        release_seconds=0.35,
        compass=(72, 93),
        chord_low=67,
    ),
    "organ": Instrument(
        (Layer((0.7, 1.0, 0.5, 0.7, 0, 0.4, 0, 0.5), ratio=0.5), Layer((0, 0.3, 0.3, 0.25), ratio=1.002)),
        attack_seconds=0.006,
        release_seconds=0.04,
        tap=0.05,
    ),
    "synth": Instrument(
        (Layer(_saw(1, 24)), Layer(_saw(1, 16), ratio=1.006), Layer(_saw(1, 16), ratio=0.995)),
        attack_seconds=0.004,
        release_seconds=0.05,
    ),
    "flute": Instrument(
        (Layer((1.0, 0.22, 0.12, 0.03)), Layer((0, 0.15, 0.1, 0.05), 0.12)),
        attack_seconds=0.03,
        release_seconds=0.06,
        vibrato_cents=14,
        tap=0.1,
        compass=(69, 91),
        chord_low=60,
    ),
    "strings": Instrument(
        (Layer(_saw(1, 14, 1.3)), Layer(_saw(1, 12, 1.3), ratio=1.004), Layer(_saw(1, 12, 1.3), ratio=0.9965)),
        attack_seconds=0.06,
        release_seconds=0.14,
        vibrato_cents=9,
        chord_low=53,
    ),
    "marimba": Instrument(
        (Layer((1.0,), 0.22), Layer((0.4,), 0.06, ratio=3.93), Layer((0.2,), 0.025, ratio=9.2, upper=True)),
        attack_seconds=0.001,
        tap=0.06,
    ),
    "trumpet": Instrument(
        (Layer(_saw(1, 6, 0.6)), Layer(_saw(7, 20, 0.9), upper=True), Layer(_saw(3, 12, 0.8), 0.15, upper=True)),
        attack_seconds=0.018,
        release_seconds=0.05,
        vibrato_cents=7,
        tap=0.06,
        compass=(60, 82),
    ),
    "clarinet": Instrument(
        (Layer((1.0, 0.02, 0.7, 0.03, 0.4, 0.04, 0.22, 0.03, 0.1)),),
        attack_seconds=0.022,
        release_seconds=0.05,
        tap=0.07,
        compass=(55, 81),
    ),
    "harp": Instrument(
        (Layer(_plucked(1, 3, 0.45), 1.3), Layer(_plucked(4, 9, 0.45), 0.4), Layer((0.35,), 0.05, ratio=2.0)),
        attack_seconds=0.001,
        release_seconds=0.4,
        tap=0.04,
        compass=(60, 88),
        chord_low=52,
    ),
    "pad": Instrument(
        (Layer(_saw(1, 7, 2.0)), Layer(_saw(1, 6, 2.0), ratio=1.005), Layer(_saw(1, 6, 2.0), ratio=0.9955)),
        attack_seconds=0.09,
        release_seconds=0.2,
        chord_low=53,
    ),
    "bass": Instrument(
        (Layer((1.0, 0.5), 0.7), Layer((0, 0, 0.35, 0.2, 0.12, 0.08), 0.2, upper=True)),
        attack_seconds=0.003,
        tap=0.05,
        compass=(33, 50),
    ),
    "synth bass": Instrument(
        (Layer((1.0, 0.1, 0.33), 1.5), Layer((0, 0.3, 0.3, 0.25, 0.2, 0.16, 0.14, 0.12, 0.1), 0.12, upper=True)),
        attack_seconds=0.003,
        compass=(33, 50),
    ),
}
LEADS = ("piano", "guitar", "bells", "organ", "synth", "flute", "strings", "marimba")
GUESTS = ("trumpet", "clarinet", "harp")  # leads that no seed draws: they play where a brief asks for them
TWO_HANDED = ("piano", "guitar", "organ", "marimba", "bells", "harp")
CHORDS = ("piano", "guitar", "organ", "pad", "strings")
SLOW_TO_SPEAK = ("pad", "strings")
BASSES = ("bass", "synth bass")


def sound_note(name: str, pitch: int, length: int, velocity: float, sample_rate: int) -> np.ndarray:
    """One note, float32 [samples]: held for `length` samples, then released."""
    instrument = INSTRUMENTS[name]
    base = Timebase(sample_rate, 1)
    release = max(1, base.samples(instrument.release_seconds))
    moments = _moments(length + release, sample_rate)
    hz = 440.0 * 2.0 ** ((pitch - 69) / 12)
    wobble = _vibrato(instrument, hz, moments)
    wave = np.zeros(len(moments), np.float32)
    for layer in instrument.layers:
        tone = _oscillate(layer.harmonics, hz * layer.ratio, len(moments), sample_rate, wobble)
        if math.isfinite(layer.decay_seconds):
            decay = layer.decay_seconds * 2.0 ** ((60 - pitch) / 24)
            tone *= np.exp(moments * np.float32(-1 / decay))
        wave += tone * np.float32(velocity**1.5 if layer.upper else 1.0)
    if instrument.tap:
        burst = tap_noise(sample_rate)[: len(wave)]
        wave[: len(burst)] += np.float32(instrument.tap * velocity) * burst
    attack = min(max(1, base.samples(instrument.attack_seconds)), len(wave))
    wave[:attack] *= np.linspace(0, 1, attack, dtype=np.float32)
    wave[-release:] *= np.linspace(1, 0, release, dtype=np.float32) ** 2
    return wave


@lru_cache(maxsize=8)
def tap_noise(sample_rate: int) -> np.ndarray:
    """A short noise that dies away, float32 [samples]: the touch at the start of a note."""
    length = max(1, Timebase(sample_rate, 1).samples("0.03"))
    noise = np.random.Generator(np.random.PCG64(_NOISE_SEED)).standard_normal(length, dtype=np.float32)
    noise = noise + np.concatenate((np.zeros(1, np.float32), noise[:-1]))  # takes the edge off the top octave
    return noise * np.exp(_moments(length, sample_rate) * np.float32(-1 / 0.006))


def _moments(samples: int, sample_rate: int) -> np.ndarray:
    """The time of each sample in seconds, float32."""
    return np.arange(samples, dtype=np.float32) / np.float32(sample_rate)


def _vibrato(instrument: Instrument, hz: float, moments: np.ndarray) -> np.ndarray | None:
    """Phase to add, in cycles: vibrato that sets in after the attack."""
    if not instrument.vibrato_cents:
        return None
    rate_hz = 5.5
    depth = hz * (2.0 ** (instrument.vibrato_cents / 1200) - 1) / (2 * math.pi * rate_hz)
    return np.float32(depth) * np.sin(np.float32(2 * math.pi * rate_hz) * moments) * np.minimum(moments * 4, 1)


def _oscillate(
    harmonics: tuple[float, ...], hz: float, samples: int, sample_rate: int, wobble: np.ndarray | None
) -> np.ndarray:
    """A steady tone, read from a table of one cycle with a 32-bit phase that wraps by itself."""
    room = int(_HIGHEST * sample_rate / hz)
    if room < 1:
        return np.zeros(samples, np.float32)
    step = np.uint32(round(hz / sample_rate * 2**_PHASE_BITS))
    phase = np.arange(samples, dtype=np.uint32) * step
    if wobble is not None:
        phase += (wobble * np.float32(2**_PHASE_BITS)).astype(np.int64).astype(np.uint32)
    return _cycle(harmonics[:room])[phase >> np.uint32(_PHASE_BITS - _TABLE_BITS)]


@lru_cache(maxsize=256)
def _cycle(harmonics: tuple[float, ...]) -> np.ndarray:
    """One cycle of the harmonics' sum, float32 [2 ** _TABLE_BITS]."""
    spectrum = np.zeros(2 ** (_TABLE_BITS - 1) + 1, np.complex128)
    spectrum[1 : len(harmonics) + 1] = np.asarray(harmonics) * (-0.5j * 2**_TABLE_BITS)
    return np.fft.irfft(spectrum).astype(np.float32)
