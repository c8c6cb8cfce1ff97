"""Planted pairs: what stands in the target is heard to be the input's, at the lag and the tempo that the truth says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy import signal, stats

from hemiola.errors import InputError
from hemiola.synth.plan import plan
from hemiola.synth.render import render
from hemiola.timebase import Timebase
from hemiola.train.pairs import PairFolder, Stretch
from hemiola.train.planted import Planted, compose, draw, evaluate_windows, fill

WANTED = Planted(pairs=2, valid_pairs=1, clip_seconds=1.5, stretch_seconds=0.75, sample_rate=2000)
HEARD = Planted(pairs=1, clip_seconds=8, stretch_seconds=5, sample_rate=8000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> PairFolder:
    return fill(tmp_path_factory.mktemp("planted") / "pairs", WANTED)


# ---- what is heard


def test_at_one_tempo_the_stretch_is_the_inputs_samples_and_the_rest_is_other_music() -> None:
    wanted = replace(HEARD, slowest=1, fastest=1, noise_db=20)
    for index in range(3):
        planting = draw(wanted, "train", index)
        shown, heard = (samples[0] for samples in compose(wanted, planting))
        start, end = (round(8000 * second) for second in (planting.target_start, planting.target_start + 5))
        middle = heard[start + 1000 : end - 1000]
        likeness = signal.correlate(shown, middle, "valid")
        # To the sample, but for where a half is rounded to.
        assert abs(np.argmax(likeness) - round(8000 * planting.input_start) - 1000) <= 1
        own = render(plan(planting.target_seed, 8), sample_rate=8000)[0]
        np.testing.assert_array_equal(np.delete(heard, np.s_[start:end]), np.delete(own, np.s_[start:end]))


def spectrogram(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments in seconds, and log magnitudes [frequencies, frames] without what lasts through the whole piece."""
    _, moments, spectrum = signal.stft(samples, 8000, nperseg=512, noverlap=512 - 64)
    loudness = np.log(np.abs(spectrum) + 1e-3)
    return moments, loudness - loudness.mean(axis=1, keepdims=True)


def likeness(shown: np.ndarray, heard: np.ndarray, truth: Stretch, late: float = 0.0, faster: float = 1.0) -> float:
    """Correlation of the stretch as it is in the target with the input, read as the truth says, or beside it."""
    (times, source), (moments, target) = spectrogram(shown), spectrogram(heard)
    begin, length = truth.target_start_seconds, truth.input_seconds / truth.ratio
    inside = (moments > begin + 0.1 * length) & (moments < begin + 0.9 * length)
    # About the middle of the stretch, so that a wrong tempo is not a wrong lag as well.
    middle = truth.input_start_seconds + truth.input_seconds / 2 + late
    read = middle + (moments[inside] - begin - length / 2) * truth.ratio * faster
    warped = np.stack([np.interp(read, times, row) for row in source])
    return float(np.corrcoef(warped.ravel(), target[:, inside].ravel())[0, 1])


@pytest.mark.parametrize("index", range(3))
def test_lag_and_tempo_are_heard_where_the_truth_says(tmp_path: Path, index: int) -> None:
    planting = draw(HEARD, "valid", index)
    shown, heard = (samples[0] for samples in compose(HEARD, planting))
    truth = Stretch(float(planting.ratio), float(planting.input_start), float(planting.target_start), 5.0)
    lates = np.arange(-60, 61, 4) / 1000
    assert abs(lates[np.argmax([likeness(shown, heard, truth, late=late) for late in lates])]) <= 0.012
    tempi = 1 + np.arange(-40, 41, 5) / 1000
    assert abs(tempi[np.argmax([likeness(shown, heard, truth, faster=each) for each in tempi])] - 1) <= 0.01
    assert likeness(shown, heard, truth) > 0.6
    assert likeness(shown, heard, replace(truth, ratio=1 / truth.ratio)) < 0.5


@pytest.mark.parametrize("noise_db", [10.0, 30.0])
def test_noise_is_as_loud_as_was_asked(noise_db: float) -> None:
    wanted = replace(HEARD, slowest=1, fastest=1, noise_db=noise_db)
    planting = draw(wanted, "train", 0)
    noisy, clean = (compose(each, planting)[1][0] for each in (wanted, replace(wanted, noise_db=200.0)))
    start = round(8000 * planting.target_start) + 800
    part = np.s_[start : start + 32000]
    ratio_db = 10 * np.log10(np.mean(clean[part] ** 2) / np.mean((noisy[part] - clean[part]) ** 2))
    assert ratio_db == pytest.approx(noise_db, abs=1.0)


# ---- what is drawn


def test_draws_lie_inside_the_clips_and_are_even() -> None:
    wanted = Planted(pairs=1)
    drawn = [draw(wanted, "train", index) for index in range(400)]
    assert all(0 <= each.input_start <= 10 for each in drawn)
    assert all(0 <= each.target_start <= 24 - 14 / each.ratio for each in drawn)
    tempi = [math.log(each.ratio) for each in drawn]
    assert stats.kstest(tempi, stats.uniform(math.log(0.8), math.log(1.25 / 0.8)).cdf).pvalue > 0.01
    assert stats.kstest([float(each.input_start) for each in drawn], stats.uniform(0, 10).cdf).pvalue > 0.01
    assert abs(stats.spearmanr(tempi, [float(each.input_start) for each in drawn]).statistic) < 0.15
    # No piece is in two clips.
    assert len({seed for each in drawn for seed in (each.input_seed, each.target_seed)}) == 800


def test_training_and_validation_share_no_piece() -> None:
    seeds = [
        {seed for index in range(50) for seed in (draw(WANTED, split, index).input_seed,
                                                  draw(WANTED, split, index).target_seed)}
        for split in ("train", "valid")
    ]  # fmt: skip
    assert not seeds[0] & seeds[1]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"slowest": 0.0}, "slowest"),
        ({"slowest": 1.3}, "slowest"),
        ({"stretch_seconds": 20.0}, "25 s does not fit into a clip of 24 s"),
        ({"stretch_seconds": 0.0}, "does not fit"),
    ],
)
def test_what_cannot_be_planted_is_refused(changed: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Planted(pairs=1, **changed)


# ---- the dataset


def test_a_dataset_holds_what_was_drawn(folder: PairFolder) -> None:
    assert [pair.split for pair in folder.pairs] == ["train", "train", "valid"]
    for number, pair in enumerate(folder.pairs):
        planting = draw(WANTED, pair.split, number if pair.split == "train" else 0)
        assert pair.truth == Stretch(
            float(planting.ratio), float(planting.input_start), float(planting.target_start), 0.75
        )
        for clip, samples in zip((pair.input, pair.target), compose(WANTED, planting), strict=True):
            np.testing.assert_allclose(folder.audio(clip), samples, atol=2**-23)
            info = soundfile.info(folder.folder / "clips" / f"{clip}.flac")
            assert (info.frames, info.samplerate, info.channels, info.subtype) == (3000, 2000, 1, "PCM_24")
            assert folder.cuts[clip].split == pair.split
    assert len({cut.track for cut in folder.cuts.values()}) == 6


def test_what_is_there_is_not_composed_again_and_two_processes_make_the_same(folder: PairFolder) -> None:
    kept, lost = (folder.folder / "clips" / f"train-00000{number}-target.flac" for number in (0, 1))
    before, missing = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    seen: list[tuple[int, int]] = []
    again = fill(folder.folder, WANTED, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert again == folder
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == missing
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_another_form_wants_another_folder_and_more_pairs_do_not(folder: PairFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"noise_db 20.0, not 30.0: choose another folder"):
        fill(folder.folder, replace(WANTED, noise_db=30.0))
    few = fill(tmp_path / "few", replace(WANTED, pairs=1))
    assert few.pairs[0] == folder.pairs[0]
    assert fill(tmp_path / "few", WANTED).pairs == folder.pairs


# ---- how far windows are from the truth


CLOCK = Timebase(24000, 320)
# In the target from 5 s on, a quarter faster, stands what the input has from 2 s on.
TRUTH = Stretch(ratio=1.25, input_start_seconds=2.0, target_start_seconds=5.0, input_seconds=14.0)


@pytest.mark.parametrize(
    ("windows", "lag", "ratio"),
    [
        # 800 frames at ratio 1 from frame 450: the middle is 399.5 frames on, at 849.5 / 75 = 11.32667 s. There the
        # target plays the input's second 2 + 6.32667 * 1.25 = 9.90833, which is frame 743.125; at ratio 1.25 a window
        # about it begins 499.375 frames earlier, at 243.75.
        ((243.75, 1.25, 450, 1.0), 0.0, 0.0),
        ((243.75 + 15, 1.25, 450, 1.0), 0.2, 0.0),
        ((243.75 - 15, 1.25, 450, 1.0), 0.2, 0.0),
        # The same middles, read at one tempo: 743.125 - 399.5.
        ((343.625, 1.0, 450, 1.0), 0.0, math.log(1.25)),
        # The target at 0.8 from frame 529.9 has the same middle: 450 + 399.5 - 319.6.
        ((343.625, 1.0, 529.9, 0.8), 0.0, 0.0),
        # A target window 1 s later is 1.25 s of the input.
        ((243.75, 1.25, 525, 1.0), 1.25, 0.0),
    ],
)
def test_windows_are_judged_by_their_middles(windows: tuple[float, ...], lag: float, ratio: float) -> None:
    found = evaluate_windows(TRUTH, *windows, frames=800, timebase=CLOCK)
    assert found == (pytest.approx(lag, abs=1e-9), pytest.approx(ratio, abs=1e-9))
