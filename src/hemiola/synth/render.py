"""Rendering: a score becomes sound, part by part, mixed, put in a room and set to an even loudness."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from hemiola.errors import InputError
from hemiola.synth.drums import KIT_SOUNDS, sound_drum
from hemiola.synth.instruments import sound_note
from hemiola.synth.score import Part, Score
from hemiola.timebase import Timebase

_PART_DB = {"lead": 0.0, "chords": -6.0, "bass": -4.0}
_DRUMS_DB = -1.0
_PAN = {"lead": 0.0, "chords": -0.45, "bass": 0.0, "drums": 0.2}
_RMS = 0.13
_KNEE, _CEILING = 0.6, 0.88  # from the knee up peaks are bent, so that none passes the ceiling
_LOWEST_HZ = 25.0
_FADE_SECONDS = "0.008"
_TAIL_SECONDS = "0.3"
_ROOM_SEED = 1792


def render(score: Score, *, sample_rate: int = 32000, channels: int = 1) -> np.ndarray:
    """The score as audio, float32 [channels, samples], exactly as long as its seconds say; peak under 0.9."""
    if channels not in (1, 2):
        raise InputError(f"synthetic music has 1 or 2 channels, not {channels}")
    base = Timebase(sample_rate, 1)
    samples = base.samples(score.seconds)
    if samples == 0:
        raise InputError(
            f"{float(score.seconds)} s is less than one sample at {sample_rate} Hz: ask for a longer piece"
        )
    mix = np.zeros((channels, samples), np.float32)
    for part in score.parts:
        _mix_in(mix, _sound_part(part, score, base, samples), _PART_DB[part.role], _PAN[part.role])
    if score.kit:
        level = _DRUMS_DB + KIT_SOUNDS[score.kit].level_db
        _mix_in(mix, _sound_hits(score, base, samples), level, _PAN["drums"])
    return _finished(_in_room(mix, score.room, sample_rate), base)


def _sound_part(part: Part, score: Score, base: Timebase, samples: int) -> np.ndarray:
    """One player's notes, float32 [samples]; a note that comes back is sounded once."""
    bus = np.zeros(samples, np.float32)
    known: dict[tuple[int, int, float], np.ndarray] = {}
    for note in part.notes:
        start = base.samples(score.when(note.start_ticks, note.late_ms))
        key = (note.pitch, note.length_ticks, note.velocity)
        if key not in known:
            length = base.samples(min(score.when(note.length_ticks), score.seconds))
            sound = sound_note(part.instrument, note.pitch, length, note.velocity, base.sample_rate)
            known[key] = sound * np.float32(note.velocity)
        _add(bus, known[key], start)
    return bus


def _sound_hits(score: Score, base: Timebase, samples: int) -> np.ndarray:
    bus = np.zeros(samples, np.float32)
    for hit in score.hits:
        stroke = sound_drum(score.kit or "", hit.drum, base.sample_rate)
        _add(bus, stroke * np.float32(hit.velocity), base.samples(score.when(hit.start_ticks, hit.late_ms)))
    return bus


def _add(bus: np.ndarray, sound: np.ndarray, start: int) -> None:
    end = min(start + len(sound), len(bus))
    if end > start:
        bus[start:end] += sound[: end - start]


def _mix_in(mix: np.ndarray, bus: np.ndarray, level_db: float, pan: float) -> None:
    """Adds a part at a loudness of its own: `level_db` over a common RMS, `pan` from -1 (left) to 1."""
    rms = _rms(bus)
    if rms == 0:
        return
    gain = 10 ** (level_db / 20) / rms
    if len(mix) == 1:
        mix[0] += np.float32(gain) * bus
        return
    angle = math.pi / 4 * (1 + pan)
    for channel, side in enumerate((math.cos(angle), math.sin(angle))):
        mix[channel] += np.float32(gain * side * math.sqrt(2)) * bus


def _in_room(mix: np.ndarray, wet: float, sample_rate: int) -> np.ndarray:
    """The mix with early reflections and a short tail, and without anything below hearing."""
    length = mix.shape[-1]
    tail = Timebase(sample_rate, 1).samples(_TAIL_SECONDS)
    size = _quick_size(length + tail)
    out = np.empty_like(mix)
    for channel, dry in enumerate(mix):
        direct, room = _responses(channel, size, sample_rate)
        spectrum = np.fft.rfft(dry, size) * (direct + np.float32(wet) * room)
        out[channel] = np.fft.irfft(spectrum, size)[:length]
    return out


@lru_cache(maxsize=4)
def _responses(channel: int, size: int, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Spectra [size // 2 + 1] of the direct sound (a low cut, float32) and the room (dying noise, complex64)."""
    hz = np.fft.rfftfreq(size, 1 / sample_rate)
    direct = hz**2 / (hz**2 + _LOWEST_HZ**2)
    seconds = np.arange(max(1, Timebase(sample_rate, 1).samples(_TAIL_SECONDS))) / sample_rate
    noise = np.random.Generator(np.random.PCG64([_ROOM_SEED, channel])).standard_normal(len(seconds))
    echoes = noise * np.exp(-seconds / 0.06) * np.minimum(seconds / 0.004, 1)
    echoes /= np.linalg.norm(echoes) + 1e-9
    return direct.astype(np.float32), (direct * np.fft.rfft(echoes, size)).astype(np.complex64)


def _quick_size(samples: int) -> int:
    """The least 2^a * 3 or 2^a at or above `samples`: sizes whose FFT is quick."""
    power = 1 << (samples - 1).bit_length()
    return power * 3 // 4 if power >= 4 and power * 3 // 4 >= samples else power


def _finished(mix: np.ndarray, base: Timebase) -> np.ndarray:
    """Even loudness, peaks bent under the ceiling, and a short fade so that the cut at the end does not click."""
    mix *= np.float32(_RMS / max(_rms(mix), 1e-9))
    size = np.abs(mix)
    loud = size > _KNEE
    span = _CEILING - _KNEE
    mix[loud] = np.sign(mix[loud]) * (_KNEE + span * np.tanh((size[loud] - _KNEE) / span))
    fade = min(base.samples(_FADE_SECONDS), mix.shape[-1] // 2)
    if fade:
        mix[:, -fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return mix


def _rms(samples: np.ndarray) -> float:
    return math.sqrt(float(np.vdot(samples, samples)) / samples.size)
