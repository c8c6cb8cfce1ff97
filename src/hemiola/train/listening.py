"""Ears: tempo, key, mode, drums, the lead instrument, onsets and flaws heard in audio, by numpy alone.

Drums, keys and leads are heard with constants fitted on synthetic music of the train split; nothing else is.
Audio is float [channels, samples] or [samples]; channels are mixed, and only flaws depend on loudness. Bands end at
11 kHz, so that music at 24, 32 and 48 kHz is heard alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hemiola.errors import AudioError
from hemiola.timebase import Timebase
from hemiola.train import fitted_ears, timbre
from hemiola.train.spectra import (
    BANDS,
    FLOOR,
    HIGHEST_HZ,
    LOWEST_HZ,
    Array,
    autocorrelation,
    band_weights,
    magnitudes,
    peaks,
    pitch_class_weights,
    smoothed,
)

PITCH_CLASSES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
SLOWEST_BPM, FASTEST_BPM = 50, 200
_SHORT, _SHORT_HOP = "0.032", "0.008"  # seconds: fine in time, for onsets
_LONG, _LONG_HOP = "0.256", "0.064"  # seconds: fine in pitch, for chords
_LONGER = "0.512"  # seconds: fine in pitch for a bass, every _LONG_HOP as well
_OPENING_FRAMES = 24
_RISE_MOMENTS = 4
_RMS = 0.13  # loudness at which everything is heard
_QUIET = 1e-4  # an RMS of -80 dB: nothing to hear
_SHORTEST = "0.25"  # seconds


@dataclass(frozen=True)
class Heard:
    """What was heard in a piece; None where there is nothing to hear. `key` is a name of PITCH_CLASSES."""

    tempo_bpm: float | None
    key: str | None
    mode: str | None
    drums: bool
    drums_probability: float
    lead: str | None
    lead_probability: float
    rms_db: float
    silent_share: float
    clipped_share: float


def listen(audio: Array, sample_rate: int) -> Heard:
    """Everything at once of audio [channels, samples]. Raises AudioError for audio that is empty or not finite."""
    sound = Sound.of(audio, sample_rate)
    tonic, mode = sound.key() or (None, None)
    probability = sound.drums_probability()
    leads = sound.lead_probabilities()
    lead = max(leads, key=leads.__getitem__, default=None)
    return Heard(
        tempo_bpm=sound.tempo_bpm(),
        key=None if tonic is None else PITCH_CLASSES[tonic],
        mode=mode,
        drums=probability > 0.5,
        drums_probability=probability,
        lead=lead,
        lead_probability=leads[lead] if lead else 0.0,
        rms_db=20 * float(np.log10(max(sound.rms, FLOOR))),
        silent_share=sound.silent_share(),
        clipped_share=float(np.mean(np.abs(audio) >= 0.999)),
    )


@dataclass(frozen=True, eq=False)
class Sound:
    """A piece being listened to: mono samples at one loudness, and what is computed from them once."""

    samples: Array
    rms: float
    clock: Timebase

    @classmethod
    def of(cls, audio: Array, sample_rate: int) -> Sound:
        """Mix audio [channels, samples] or [samples] to mono and set its loudness."""
        mono = np.asarray(audio, np.float64)
        mono = mono.mean(axis=0) if mono.ndim == 2 else mono
        if mono.ndim != 1 or not mono.size or not np.isfinite(mono).all():
            raise AudioError(f"cannot listen to audio of shape {list(np.shape(audio))}: it is empty or not finite")
        mono = mono - mono.mean()  # a constant is no sound
        rms = float(np.sqrt(np.mean(mono**2)))
        gain = _RMS / rms if rms > _QUIET else 0.0
        return cls((gain * mono).astype(np.float32), rms, Timebase(sample_rate, 1))

    @property
    def silent(self) -> bool:
        """Whether there is nothing to hear: no sound, or less than a quarter of a second."""
        return self.rms <= _QUIET or len(self.samples) < self.clock.samples(_SHORTEST)

    @property
    def moments_a_second(self) -> float:
        """Moments of `levels` and `novelty` a second."""
        return float(1 / self.clock.seconds(self.clock.samples(_SHORT_HOP)))

    @cached_property
    def spectrum(self) -> Array:
        """Magnitudes [moments, bins], 32 ms each, every 8 ms; a sine at full scale has 1."""
        return magnitudes(self.samples, self.clock.samples(_SHORT), self.clock.samples(_SHORT_HOP))

    @cached_property
    def long_spectrum(self) -> Array:
        """Magnitudes [frames, bins], 256 ms each, every 64 ms."""
        return magnitudes(self.samples, self.clock.samples(_LONG), self.clock.samples(_LONG_HOP))

    @cached_property
    def bands(self) -> Array:
        """Magnitudes [moments, 36] of bands from 40 Hz to 11 kHz, equal steps of pitch."""
        return self.spectrum @ band_weights(self.spectrum.shape[1], self.clock.sample_rate).T

    def novelty(self, compression: float) -> Array:
        """Onset strength [moments]: the rise of all levels log(1 + compression x magnitude), above its mean nearby.

        The rise is that of 32 ms: over less, what a codec adds from one moment to the next is as large.
        """
        levels = np.log1p(compression * self.bands)
        before = np.concatenate([levels[:1].repeat(_RISE_MOMENTS, axis=0), levels])[: len(levels)]
        rise = np.maximum(levels - before, 0).sum(axis=1)
        return np.maximum(rise - smoothed(rise, 31), 0)

    def tempo_bpm(self) -> float | None:
        """The tempo whose first six beats repeat best, 50 to 200 bpm; of octaves, the one nearer to 105 bpm.

        160 may be heard as 80: judge it by `tempo_matches`.
        """
        strength = self.novelty(30)
        strength = strength - strength.mean()
        if self.silent or not strength.any():
            return None
        similarity = autocorrelation(strength)
        candidates = np.arange(SLOWEST_BPM, FASTEST_BPM + 0.25, 0.25)
        lags = 60 * self.moments_a_second / candidates[:, None] * np.arange(1, 7)
        inside = lags < 0.9 * len(similarity)
        repeats = np.where(inside, np.interp(lags, np.arange(len(similarity)), similarity), 0)
        scores = repeats.sum(axis=1) / np.maximum(inside.sum(axis=1), 1)
        common = np.exp(-0.5 * np.log2(candidates / 105) ** 2)
        return float(candidates[np.argmax(scores * common)])

    def chromagram(self, power: float = 1.0) -> Array:
        """Loudness of the twelve pitch classes [frames, 12], C first, from 80 to 1200 Hz; 256 ms each, every 64 ms.

        Magnitudes are raised to `power` before they are summed: below 1, quiet partials count for more.
        """
        spectrum = self.long_spectrum**power
        return spectrum @ pitch_class_weights(spectrum.shape[1], self.clock.sample_rate, 80, 1200, 0.2).T

    def bass_chromagram(self, power: float = 1.0) -> Array:
        """The same from 40 to 180 Hz, of 512 ms each: which notes lie below all others."""
        spectrum = magnitudes(self.samples, self.clock.samples(_LONGER), self.clock.samples(_LONG_HOP)) ** power
        return spectrum @ pitch_class_weights(spectrum.shape[1], self.clock.sample_rate, 40, 180, 0.4).T

    def key(self) -> tuple[int, str] | None:
        """The tonic's pitch class (0 is C) and the mode whose profiles fit best; None for silence."""
        if self.silent:
            return None
        chroma = self.key_features()
        scores = {
            (tonic, mode): float(sum(np.roll(profile, tonic) @ part for profile, part in zip(profiles, chroma)))
            for mode, profiles in fitted_ears.KEYS.items()
            for tonic in range(12)
        }
        return max(scores, key=scores.__getitem__)

    def key_features(self) -> Array:
        """Chroma [4, 12]: of the whole piece, of its first 1.5 s, and both of the bass; each of mean 0, deviation 1."""
        voices = self.chromagram(0.5), self.bass_chromagram(0.5)
        means = np.array([part.mean(axis=0) for voice in voices for part in (voice, voice[:_OPENING_FRAMES])])
        centered = means - means.mean(axis=1, keepdims=True)
        return centered / (centered.std(axis=1, keepdims=True) + FLOOR)

    def onset_seconds(self) -> Array:
        """Moments where something begins, ascending, 50 ms apart at least."""
        return peaks(self.novelty(2000), self.moments_a_second)

    def drums_probability(self) -> float:
        """How likely it is that drums play: a logistic rule on `drum_features`."""
        if self.silent:
            return 0.0
        features = self.drum_features()
        score = fitted_ears.DRUMS_BIAS + sum(weight * features[name] for name, weight in fitted_ears.DRUMS.items())
        return float(1 / (1 + np.exp(-np.clip(score, -50, 50))))

    def drum_features(self) -> dict[str, float]:
        """What tells drums from other instruments, by name, in natural logarithms of power.

        High: a region's loudest moments against the mean of all; crest: against the region's usual moments; rise: how
        steeply it rises there; noise: how flat its spectrum is there, 0 for a noise and below for tones.
        """
        power = self.bands**2
        whole = power.mean()
        kick, low, middle, top = (power[:, region] for region in _regions())
        kick_level, low_level, top_level = (np.log(part.mean(axis=1) / whole + 1e-6) for part in (kick, low, top))
        kick_rise = np.maximum(np.diff(np.log(kick + FLOOR), axis=0), 0).mean(axis=1)
        return {
            "kick_high": _loudest(kick_level),
            "kick_crest": _loudest(kick_level) - float(np.median(kick_level)),
            "kick_rise": _loudest(kick_rise),
            "low_high": _loudest(low_level),
            "low_crest": _loudest(low_level) - float(np.median(low_level)),
            "middle_mean": float(np.log(middle.mean() / whole + 1e-6)),
            "top_high": _loudest(top_level),
            "top_noise": self._noisiness(7000, 11_000),
        }

    def timbre(self) -> Array:
        """What tells one lead instrument from another; see `timbre.features`."""
        return timbre.features(self.bands, self.long_spectrum, self.clock.sample_rate)

    def lead_probabilities(self) -> dict[str, float]:
        """How likely each instrument leads; empty where there is nothing to hear."""
        return {} if self.silent else timbre.probabilities(self.timbre())

    def _noisiness(self, low_hz: float, high_hz: float) -> float:
        """Flatness of a region's spectrum in the moments where it is loudest; 0 for a noise."""
        hz = np.linspace(0, self.clock.sample_rate / 2, self.spectrum.shape[1])
        power = self.spectrum[:, (hz >= low_hz) & (hz < high_hz)] ** 2 + FLOOR
        flatness = np.log(power).mean(axis=1) - np.log(power.mean(axis=1))
        return float(flatness[np.argsort(power.mean(axis=1))[-max(1, len(power) // 25) :]].mean())

    def silent_share(self) -> float:
        """The share of the piece's 50 ms moments that lie below -60 dB of full scale."""
        length = self.clock.samples("0.05")
        blocks = [self.samples[start : start + length] for start in range(0, len(self.samples), length)]
        floor = 1e-3 * _RMS / self.rms if self.rms > _QUIET else np.inf
        return float(np.mean([block.std() < floor for block in blocks]))


def tempo_matches(heard_bpm: float | None, asked_bpm: float, tolerance: float, *, octaves: bool = True) -> bool:
    """Whether a tempo is the asked one within a share such as 0.04; with `octaves`, twice or half of it counts too."""
    factors = (1.0, 2.0, 0.5) if octaves else (1.0,)
    return heard_bpm is not None and any(abs(heard_bpm / (asked_bpm * factor) - 1) <= tolerance for factor in factors)


def _regions() -> list[slice]:
    """The bands of kick drums (to 110 Hz), low notes (to 280), the middle (to 1500) and the top (from 5500)."""
    centers = np.geomspace(LOWEST_HZ, HIGHEST_HZ, BANDS + 2)[1:-1]
    regions = ((0, 110), (110, 280), (280, 1500), (5500, HIGHEST_HZ))
    return [slice(*np.searchsorted(centers, region)) for region in regions]


def _loudest(levels: Array) -> float:
    return float(np.percentile(levels, 97))
