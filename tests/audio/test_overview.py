"""A sound at a glance: against what was put into it, filters by transformers, and a count of what is held in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers.audio_utils import hertz_to_mel, mel_filter_bank, mel_to_hertz

from hemiola.audio import io, overview
from hemiola.audio.overview import MELS, PITCHES, Overview, survey
from hemiola.errors import AudioError


def seen(path: Path, samples: np.ndarray, rate: int, **kind: str) -> Overview:
    soundfile.write(path, samples.T, rate, **({"subtype": "FLOAT"} | kind))
    with io.opened(path) as reel:
        return survey(reel)


def tones(*hz: float, seconds: float = 1, rate: int = 32000) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return (sum(np.sin(2 * np.pi * each * times) for each in hz) / len(hz))[None].astype(np.float32)


@pytest.mark.parametrize("length", [1, 2, 999, 1000, 1001, 20_000, 131_073, 1_200_001])
def test_columns_hold_every_sample(tmp_path: Path, length: int) -> None:
    samples = np.random.default_rng(length).uniform(-1, 1, (2, length)).astype(np.float32)
    found = seen(tmp_path / "x.wav", samples, 4000)
    assert (found.length, found.channels, found.seconds) == (length, 2, Fraction(length, 4000))
    columns = -(-length // found.column_samples)
    assert columns == found.mel.shape[1] == found.chroma.shape[1] == found.lows.shape[1] <= 1000
    assert columns == min(length, columns)
    for column in {0, columns // 3, columns - 1}:
        part = samples[:, column * found.column_samples : (column + 1) * found.column_samples]
        np.testing.assert_array_equal(found.lows[:, column], part.min(axis=1))
        np.testing.assert_array_equal(found.highs[:, column], part.max(axis=1))
    assert found.peak == np.abs(samples).max()
    assert found.rms == pytest.approx(np.sqrt(np.mean(samples.astype(float) ** 2)))
    parts = np.array_split(samples.astype(float), range(found.column_samples, length, found.column_samples), axis=1)
    np.testing.assert_allclose(found.envelope, [np.sqrt(np.mean(part**2)) for part in parts])


@pytest.mark.parametrize("length", [1, 999, 20_001, 131_073])
def test_in_memory_it_is_the_same_as_from_a_file(tmp_path: Path, length: int) -> None:
    samples = np.random.default_rng(length).uniform(-1, 1, (2, length)).astype(np.float32)
    expected, found = seen(tmp_path / "x.wav", samples, 4000), overview.glance(samples, 4000)
    for name, value in vars(expected).items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("length", [3000, 70_000])
def test_columns_are_what_one_transform_over_all_gives(tmp_path: Path, length: int) -> None:
    rate, samples = 8000, np.random.default_rng(length).uniform(-1, 1, (1, length)).astype(np.float32)
    found = seen(tmp_path / "x.wav", samples, rate)
    window = 512
    hop = found.column_samples
    padded = np.pad(samples[0].astype(np.float64), 4 * window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    bank = overview.mel_filters(rate, window)
    for column in (0, 1, 400, found.mel.shape[1] - 1):
        centre = 4 * window + column * hop + hop // 2
        spectrum = np.fft.rfft(padded[centre - window // 2 : centre + window // 2] * hann) * 2 / hann.sum()
        np.testing.assert_allclose(found.mel[:, column], bank @ np.abs(spectrum) ** 2, rtol=1e-3, atol=1e-9)


def test_a_column_of_a_long_sound_is_the_mean_over_it(tmp_path: Path) -> None:
    """Noise bursts in every second half of a column: each column holds half of their power."""
    rate = 4000
    length = 1000 * 128 * 4
    found_once = seen(tmp_path / "x.wav", np.ones((1, length), np.float32), rate)
    assert found_once.column_samples == 512
    steady = np.random.default_rng(0).standard_normal((1, length)).astype(np.float32) * 0.1
    gated = steady * (np.arange(length) % 512 >= 256)
    whole, half = (seen(tmp_path / "x.wav", each, rate).mel[:, 2:-2].sum() for each in (steady, gated))
    assert half / whole == pytest.approx(0.5, abs=0.05)


def test_filters_are_those_of_transformers() -> None:
    rate, window = 32000, 2048
    bands = overview.mel_bands(rate)
    theirs = mel_filter_bank(window // 2 + 1, MELS, bands[0], bands[-1], rate, norm=None, mel_scale="slaney")
    np.testing.assert_allclose(overview.mel_filters(rate, window), theirs.T, atol=1e-6)
    hz = np.array([1.0, 440, 999, 1000, 1001, 15_000])
    np.testing.assert_allclose(overview.mel_of(hz), hertz_to_mel(hz, "slaney"))
    np.testing.assert_allclose(overview.hz_of(overview.mel_of(hz)), mel_to_hertz(hertz_to_mel(hz, "slaney"), "slaney"))


@pytest.mark.parametrize("rate", [22050, 32000, 48000])
@pytest.mark.parametrize(("pitch", "hz"), [("A", 440), ("C", 261.63), ("B", 1975.53), ("D♯", 155.56), ("G", 3135.96)])
def test_a_tone_is_seen_where_it_is(tmp_path: Path, rate: int, pitch: str, hz: float) -> None:
    found = seen(tmp_path / "x.wav", tones(hz, rate=rate), rate)
    middle = found.chroma[:, 300:-300].mean(axis=1)
    assert PITCHES[middle.argmax()] == pitch
    assert np.sort(middle)[-2] < 0.2 * middle.max()
    band = found.mel[:, 300:-300].mean(axis=1).argmax()
    bands = overview.mel_bands(rate)
    assert bands[band] < hz < bands[band + 2]
    # A sine at full scale between two bands: together they have all of it, beside the window's skirts.
    assert 0.5 < found.mel[:, 500].max() < 1.6


def test_a_chord_is_its_notes(tmp_path: Path) -> None:
    found = seen(tmp_path / "x.wav", tones(261.63, 329.63, 392.0), 32000)
    strongest = found.chroma[:, 400].argsort()[-3:]
    assert {PITCHES[index] for index in strongest} == {"C", "E", "G"}


def test_time_runs_to_the_right(tmp_path: Path) -> None:
    samples = np.concatenate([tones(440), np.zeros((1, 32000), np.float32), tones(2000)], axis=1)
    found = seen(tmp_path / "x.wav", samples, 32000)
    power = found.mel.sum(axis=0)
    third = power.size // 3
    assert power[third + 60 : 2 * third - 60].max() < 1e-6 * power[:third].max()
    assert found.mel[:, : third - 60].mean(axis=1).argmax() < found.mel[:, 2 * third + 60 :].mean(axis=1).argmax()


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    peaks = []
    for seconds in (60, 480):
        path = tmp_path / f"{seconds}.flac"
        soundfile.write(path, np.tile(tones(440, rate=8000)[0], seconds), 8000)
        tracemalloc.start()
        with io.opened(path) as reel:
            survey(reel)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 20e6


@pytest.mark.parametrize("end", ["wav", "flac", "ogg", "mp3"])
def test_blocks_are_what_reading_at_once_gives(tmp_path: Path, end: str) -> None:
    path = tmp_path / f"x.{end}"
    io.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (2, 100_003)).astype(np.float32), 32000)
    whole, rate = io.read(path)
    with io.opened(path) as reel:
        assert (reel.sample_rate, reel.channels) == (rate, 2)
        blocks = list(reel.blocks(7777))
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)


def damaged(folder: Path) -> Iterator[tuple[str, str]]:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 100_000)).astype(np.float32)
    io.write(folder / "cut.flac", samples, 8000)
    content = (folder / "cut.flac").read_bytes()
    (folder / "cut.flac").write_bytes(content[: len(content) // 2])
    yield "cut.flac", "cut short"
    samples[0, 99_000] = np.nan
    soundfile.write(folder / "nan.wav", samples[0], 8000, subtype="FLOAT")
    yield "nan.wav", "not finite"
    soundfile.write(folder / "none.wav", np.zeros((0, 1)), 8000)
    yield "none.wav", "holds no samples"
    (folder / "text.wav").write_text("no sound")
    yield "text.wav", "not audio that can be read"
    yield "nosuch.wav", "does not exist"


def test_damage_is_found_on_the_way(tmp_path: Path) -> None:
    for name, message in damaged(tmp_path):
        with pytest.raises(AudioError, match=message), io.opened(tmp_path / name) as reel:
            survey(reel)
