"""The ears: against hand-made sounds, scipy, and synthetic music whose truth is known."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from hemiola.errors import AudioError
from hemiola.synth.compose import Piece, compose
from hemiola.synth.score import Brief
from hemiola.synth.seeds import split_seed
from hemiola.train import spectra
from hemiola.train.listening import PITCH_CLASSES, Sound, listen, tempo_matches

RATE = 32000


@lru_cache(maxsize=64)
def piece(index: int, rate: int = RATE, channels: int = 1, brief: Brief | None = None) -> Piece:
    return compose(split_seed("test", index), sample_rate=rate, channels=channels, brief=brief)


def clicks(bpm: float, seconds: float = 8.0) -> np.ndarray:
    """A short decaying tone on every beat."""
    samples = np.zeros(round(seconds * RATE))
    t = np.arange(1600) / RATE
    tick = np.sin(2 * np.pi * 900 * t) * np.exp(-t / 0.01)
    for start in np.arange(0.1, seconds - 0.1, 60 / bpm):
        place = round(start * RATE)
        samples[place : place + len(tick)] += tick[: len(samples) - place]
    return samples


def tones(*pitches: int, seconds: float = 1.0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return sum(np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * t) for pitch in pitches) / len(pitches)


@settings(max_examples=12, deadline=None)
@given(st.integers(55, 190))
def test_a_metronome_is_heard_at_its_tempo(bpm: int) -> None:
    heard = Sound.of(clicks(bpm), RATE).tempo_bpm()
    assert tempo_matches(heard, bpm, 0.015), heard


@pytest.mark.parametrize(
    ("heard", "asked", "octaves", "right"),
    [
        (100, 100, False, True),
        (103.9, 100, False, True),
        (104.1, 100, False, False),
        (96.1, 100, False, True),
        (95.9, 100, False, False),
        (200, 100, True, True),
        (50, 100, True, True),
        (200, 100, False, False),
        (208.1, 100, True, False),
        (150, 100, True, False),
        (133.3, 100, True, False),
        (None, 100, True, False),
    ],
)
def test_tempo_counts_octaves_only_where_it_says_so(heard: float, asked: float, octaves: bool, right: bool) -> None:
    assert tempo_matches(heard, asked, 0.04, octaves=octaves) is right


def test_onsets_of_clicks_are_heard_where_they_are() -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    moments = np.cumsum(rng.uniform(0.15, 0.6, 15))
    samples = np.zeros(round((moments[-1] + 1) * RATE))
    t = np.arange(3200) / RATE
    for moment in moments:
        place = round(moment * RATE)
        samples[place : place + 3200] += np.exp(-t / 0.03) * np.sin(2 * np.pi * 500 * t)
    heard = Sound.of(samples, RATE).onset_seconds()
    assert len(heard) == len(moments)
    assert np.abs(heard - moments).max() < 0.016


def test_spectra_are_scipys() -> None:
    samples = np.random.Generator(np.random.PCG64(1)).standard_normal(5001).astype(np.float32)
    ours = spectra.magnitudes(samples, 512, 128)
    _, _, theirs = signal.stft(samples, RATE, "hann", 512, 384, boundary="zeros", padded=False)
    frames = min(len(ours), theirs.shape[1])
    assert frames >= 39
    np.testing.assert_allclose(ours[:frames], 2 * np.abs(theirs.T[:frames]), atol=2e-6)


def test_autocorrelation_is_the_sum_of_products() -> None:
    values = np.random.Generator(np.random.PCG64(2)).standard_normal(57)
    full = np.correlate(values, values, "full")[56:] / np.arange(57, 0, -1)
    np.testing.assert_allclose(spectra.autocorrelation(values), full / full[0], atol=1e-12)


@pytest.mark.parametrize("pitch", [45, 57, 60, 66, 71, 76, 81])
def test_a_tone_lights_its_pitch_class(pitch: int) -> None:
    chroma = Sound.of(tones(pitch), RATE).chromagram().mean(axis=0)
    assert chroma.argmax() == pitch % 12
    assert chroma[pitch % 12] > 5 * np.delete(chroma, pitch % 12).max()


@pytest.mark.parametrize("turn", [0, 1, 5, 8])
def test_cadences_are_heard_in_their_key(turn: int) -> None:
    major = [(60, 64, 67), (65, 69, 72), (67, 71, 74), (60, 64, 67)] * 2
    minor = [(57, 60, 64), (62, 65, 69), (64, 68, 71), (57, 60, 64)] * 2
    for chords, tonic, mode in ((major, 0, "major"), (minor, 9, "minor")):
        music = np.concatenate([tones(*(pitch + turn for pitch in chord)) for chord in chords])
        assert Sound.of(music, RATE).key() == ((tonic + turn) % 12, mode)


def test_loudness_and_channels_do_not_matter() -> None:
    audio = piece(1).audio
    expected = listen(audio, RATE)
    for other in (audio[0], 0.01 * audio, np.repeat(audio, 2, axis=0)):
        heard = listen(other, RATE)
        for name in ("tempo_bpm", "key", "mode", "drums"):
            assert getattr(heard, name) == getattr(expected, name)
        assert heard.drums_probability == pytest.approx(expected.drums_probability, abs=1e-4)


@pytest.mark.parametrize("rate", [24000, 48000])
def test_other_sample_rates_are_heard_alike(rate: int) -> None:
    for index in (1, 2, 3):
        expected, heard = listen(piece(index).audio, RATE), listen(piece(index, rate).audio, rate)
        assert (heard.key, heard.mode, heard.drums) == (expected.key, expected.mode, expected.drums)
        assert tempo_matches(heard.tempo_bpm, expected.tempo_bpm or 0, 0.02)


@pytest.mark.parametrize("index", [0, 3, 4])
def test_drums_are_heard_when_they_are_the_only_change(index: int) -> None:
    for drums in (True, False):
        assert listen(piece(index, brief=Brief(drums=drums)).audio, RATE).drums is drums


def test_flaws_are_heard() -> None:
    audio = piece(0).audio.copy()
    assert listen(audio, RATE).clipped_share == 0
    assert listen(audio, RATE).silent_share < 0.02
    audio[:, RATE : 3 * RATE] = 0
    audio[:, : RATE // 4] = np.sign(audio[:, : RATE // 4]) * 1.3
    assert listen(audio, RATE).silent_share == pytest.approx(0.25, abs=0.02)
    assert listen(audio, RATE).clipped_share == pytest.approx(1 / 32, abs=1e-3)


@pytest.mark.parametrize("audio", [np.zeros((1, 64000)), np.full((1, 100), 0.5), np.full(1, 0.5), np.ones((2, 64000))])
def test_where_there_is_nothing_to_hear_nothing_is_heard(audio: np.ndarray) -> None:
    heard = listen(audio, RATE)
    assert heard.tempo_bpm is None
    assert heard.key is None
    assert not heard.drums
    assert listen(np.zeros((1, 64000)), RATE).silent_share == 1


@pytest.mark.parametrize("audio", [np.zeros((1, 0)), np.zeros(0), np.array([[0.0, np.nan]]), np.zeros((1, 2, 3))])
def test_what_is_no_audio_is_refused(audio: np.ndarray) -> None:
    with pytest.raises(AudioError, match="cannot listen"):
        listen(audio, RATE)


@pytest.mark.slow
def test_the_ears_are_right_about_the_true_music_of_the_test_split() -> None:
    right = np.zeros(4)
    for index in range(60):
        truth, heard = piece.__wrapped__(index).truth, listen(piece.__wrapped__(index).audio, RATE)
        right += (
            tempo_matches(heard.tempo_bpm, truth.tempo_bpm, 0.04),
            heard.drums == truth.drums,
            heard.mode == truth.mode,
            (heard.key, heard.mode) == (truth.key, truth.mode),
        )
    tempo, drums, mode, key = right / 60
    assert tempo >= 0.97
    assert drums >= 0.97
    assert mode >= 0.9
    assert key >= 0.9
    assert set(PITCH_CLASSES) == {"C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"}
