"""Chroma against transformers' feature extractor, whose spectrogram (torchaudio's) is stood in for by torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.audio_utils import chroma_filter_bank
from transformers.models.musicgen_melody.feature_extraction_musicgen_melody import MusicgenMelodyFeatureExtractor

from hemiola.musicgen import chroma
from hemiola.musicgen.config import MelodyConfig

RATE = 32000


def reference(samples: np.ndarray, rate: int = RATE) -> np.ndarray:
    """Rows [n, 12] by transformers."""
    bank = chroma_filter_bank(sampling_rate=rate, num_frequency_bins=16384, tuning=0, num_chroma=12)
    window = torch.hann_window(16384)

    def spectrogram(wave: torch.Tensor) -> torch.Tensor:
        # As torchaudio's Spectrogram(n_fft=win_length=16384, hop_length=4096, power=2, normalized=True) works it out.
        spectrum = torch.stft(wave, 16384, 4096, window=window, center=True, return_complex=True)
        return (spectrum / window.pow(2).sum().sqrt()).abs().pow(2)

    # Made without its __init__, which asks for torchaudio.
    extractor = object.__new__(MusicgenMelodyFeatureExtractor)
    extractor.n_fft, extractor.spectrogram = 16384, spectrogram
    extractor.chroma_filters = torch.from_numpy(bank).float()
    return extractor._torch_extract_fbank_features(torch.tensor(samples)[None]).numpy()[0]


def tune(seed: int, seconds: float, rate: int = RATE) -> np.ndarray:
    """Notes of a third of a second with two overtones, and a little noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    keys = generator.integers(36, 84, size=int(seconds * 3) + 1)
    hz = 440 * 2 ** ((keys[(time * 3).astype(int)] - 69) / 12)
    phase = 2 * np.pi * np.cumsum(hz) / rate
    wave = sum(np.sin(phase * partial) / partial for partial in (1, 2, 3))
    return (wave * 0.2 + generator.normal(size=len(time)) * 0.01).astype(np.float32)


@pytest.mark.parametrize("rate", [32000, 24000, 800])
def test_filters_are_those_of_transformers(rate: int) -> None:
    wanted = chroma_filter_bank(sampling_rate=rate, num_frequency_bins=16384, tuning=0, num_chroma=12)
    np.testing.assert_allclose(chroma.filters(rate, 12), wanted, atol=1e-9)


@pytest.mark.parametrize("seconds", [0.001, 0.3, 0.512, 1, 2.345, 7])
def test_rows_are_those_of_transformers(seconds: float) -> None:
    samples = tune(int(seconds * 10), seconds)
    wanted = reference(samples)
    found = chroma.loudest(samples, RATE, 12)
    assert found.dtype == np.float32
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert seconds < 1 or len(set(found.argmax(1))) > 1


@pytest.mark.parametrize(("key", "wanted"), [(60, 0), (69, 9), (61, 1), (83, 11), (48, 0)])
def test_a_note_is_its_pitch_class(key: int, wanted: int) -> None:
    wave = np.sin(2 * np.pi * 440 * 2 ** ((key - 69) / 12) * np.arange(RATE) / RATE)
    assert set(chroma.loudest(wave, RATE, 12)[1:-1].argmax(1)) == {wanted}


def test_silence_is_no_tune() -> None:
    rows = chroma.loudest(np.zeros(40000), RATE, 12)
    assert np.array_equal(rows, chroma.null(MelodyConfig(chroma_length=len(rows))))
    assert np.array_equal(rows, reference(np.zeros(40000, np.float32)))


@given(rows=st.integers(1, 20), length=st.integers(1, 50))
def test_rows_are_repeated_from_the_start_or_cut(rows: int, length: int) -> None:
    numbered = np.arange(rows)[:, None]
    assert chroma.fitted(numbered, length)[:, 0].tolist() == [place % rows for place in range(length)]
