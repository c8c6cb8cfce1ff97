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

_PART_DB = {"lead": 0.0, "chords": -7.5, "bass": -5.0}  # the lead is what a listener names
_DRUMS_DB = -2.0
_PAN = {"lead": 0.0, "chords": -0.45, "bass": 0.0, "drums": 0.2}
_RMS = 0.13
_KNEE, _CEILING = 0.6, 0.88  # from the knee up peaks are bent, so that none passes the ceiling
_FADE_SECONDS = "0.008"
_ROOM_SEED = 1792
_ECHOES = 28
_ROOM_SECONDS, _NEAREST_WALL_SECONDS = 0.2, 0.004


def render(score: Score, *, sample_rate: int = 32000, channels: int = 1) -> np.ndarray:
    """The score as audio, float32 [channels, samples], exactly as long as its seconds say; peak under 0.9."""
    if channels not in (1, 2):
        raise InputError(f"synthetic music has 1 or 2 channels, not {channels}")
    try:
        base = Timebase(sample_rate, 1)
    except ValueError as error:
        raise InputError(str(error)) from None
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
    return _finished(_in_room(mix, score.room, base), base)


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


def _in_room(mix: np.ndarray, wet: float, base: Timebase) -> np.ndarray:
    """The mix with a short reverberation: few echoes of either sign, thinning out (velvet noise)."""
    out = mix.copy()
    for channel, dry in enumerate(mix):
        for delay, gain in _echoes(channel, base):
            if delay < len(dry):
                out[channel, delay:] += np.float32(wet * gain) * dry[: len(dry) - delay]
    return out


@lru_cache(maxsize=8)
def _echoes(channel: int, base: Timebase) -> tuple[tuple[int, float], ...]:
    """Delay in samples and gain of each echo; the gains have unit energy."""
    rng = np.random.Generator(np.random.PCG64([_ROOM_SEED, channel]))
    seconds = (np.arange(_ECHOES) + rng.random(_ECHOES)) * (_ROOM_SECONDS / _ECHOES) + _NEAREST_WALL_SECONDS
    gains = rng.choice((-1.0, 1.0), _ECHOES) * np.exp(-seconds / (_ROOM_SECONDS / 3))
    gains /= np.linalg.norm(gains)
    return tuple((base.samples(float(late)), float(gain)) for late, gain in zip(seconds, gains))


def _finished(mix: np.ndarray, base: Timebase) -> np.ndarray:
    """Even loudness, peaks bent under the ceiling, and a short fade so that the cut at the end does not click."""
    mix -= mix.mean(axis=-1, keepdims=True)
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
