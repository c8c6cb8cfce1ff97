"""Pieces as sound: exact length, even loudness, the same bytes for the same seed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola.errors import InputError
from hemiola.synth.compose import compose
from hemiola.synth.score import Brief

RATE = 32000


def digest(samples: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(samples).tobytes()).hexdigest()


def test_the_same_seed_gives_the_same_bytes_in_another_process_with_another_hash_seed():
    program = (
        "import hashlib; from hemiola.synth.compose import compose; p = compose(11, seconds=2, channels=2);"
        "print(hashlib.sha256(p.audio.tobytes()).hexdigest(), p.caption, p.truth.onset_seconds, sep='|')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    piece = compose(11, seconds=2, channels=2)
    assert told.stdout.strip() == f"{digest(piece.audio)}|{piece.caption}|{piece.truth.onset_seconds}"


def test_what_was_composed_before_leaves_no_trace():
    first = compose(5, seconds=2)
    compose(6, seconds=1, sample_rate=44100, channels=2)
    assert digest(compose(5, seconds=2).audio) == digest(first.audio)


def test_different_seeds_give_different_music_and_the_global_generator_is_left_alone():
    before = digest(np.asarray(np.random.get_state()[1]))  # noqa: NPY002
    assert len({digest(compose(seed, seconds=1).audio) for seed in range(12)}) == 12
    assert digest(np.asarray(np.random.get_state()[1])) == before  # noqa: NPY002


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**63),
    millis=st.integers(1, 3000),
    rate=st.sampled_from((8000, 16000, 22050, 24000, 32000, 44100, 48000)),
    channels=st.sampled_from((1, 2)),
)
def test_every_duration_is_exact_and_in_bounds(seed: int, millis: int, rate: int, channels: int):
    piece = compose(seed, seconds=Fraction(millis, 1000), sample_rate=rate, channels=channels)
    assert piece.audio.shape == (channels, (millis * rate * 2 + 1000) // 2000)
    assert piece.audio.dtype == np.float32 and piece.audio.flags.c_contiguous
    assert np.isfinite(piece.audio).all() and np.abs(piece.audio).max() <= 0.9
    events = [*piece.truth.onset_seconds, *piece.truth.beat_seconds, *sum(piece.truth.drum_onset_seconds.values(), ())]
    assert all(0 <= event < millis / 1000 for event in events)
    assert piece.truth.chords[-1].end_seconds == pytest.approx(millis / 1000)


@pytest.mark.parametrize("seconds", [3, "7.0000625", 0.1, Fraction(10, 3)])
def test_seconds_in_any_writing(seconds):
    exact = Fraction(str(seconds))
    assert compose(1, seconds=seconds).audio.shape[1] == round(exact * RATE)


def test_music_fills_the_piece_at_an_even_loudness():
    for seed in range(24):
        samples = compose(seed, seconds=6).audio[0]
        tenths = np.sqrt((samples.reshape(-1, RATE // 10) ** 2).mean(axis=1))
        assert tenths.min() > 0.012 and tenths[-1] > 0.012, seed
        assert tenths[0] > 0.03, "the first downbeat is at 0"
        assert 0.11 < np.sqrt(np.mean(samples**2)) < 0.14
        assert abs(samples.mean()) < 1e-3
        assert np.mean(np.abs(samples) > 0.85) < 0.001


def test_stereo_is_wide_and_folds_down_to_much_the_same_piece_as_mono():
    for seed in (3, 4, 9):
        stereo, mono = compose(seed, seconds=4, channels=2), compose(seed, seconds=4)
        assert (stereo.caption, stereo.truth) == (mono.caption, mono.truth)
        left, right = stereo.audio
        assert 0.3 < np.corrcoef(left, right)[0, 1] < 0.995
        assert np.corrcoef(stereo.audio.mean(axis=0), mono.audio[0])[0, 1] > 0.95


def test_the_beginning_of_a_long_piece_holds_what_the_short_one_says():
    long, short = compose(21, seconds=40).truth, compose(21, seconds=5).truth
    assert (long.tempo_bpm, long.key, long.lead, long.kit) == (short.tempo_bpm, short.key, short.lead, short.kit)
    assert long.beat_seconds[: len(short.beat_seconds)] == short.beat_seconds


def test_a_piece_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        compose(1, seconds=0.1).caption = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seconds": 0}, "0 seconds"),
        ({"seconds": -1}, "negative"),
        ({"seconds": "nan"}, "finite"),
        ({"seconds": 1e-6}, "less than one sample"),
        ({"channels": 3}, "channels"),
        ({"sample_rate": 0}, "rate"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"brief": Brief(tempo_bpm=300)}, "bpm"),
        ({"brief": Brief(key="H")}, "key"),
        ({"brief": Brief(mode="dorian")}, "mode"),
        ({"brief": Brief(lead="kazoo")}, "lead"),
        ({"brief": Brief(kit="metal")}, "kit"),
        ({"brief": Brief(kit="soft", drums=False)}, "drums"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(changed, said):
    with pytest.raises(InputError, match=said) as caught:
        compose(**{"seed": 1, **changed})
    assert "\n" not in str(caught.value)
