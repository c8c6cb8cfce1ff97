"""Plans: briefs are kept, free choices are varied, and the notes make musical sense."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola.errors import InputError
from hemiola.synth import grooves, instruments
from hemiola.synth.harmony import KEYS, MODES, Scale, named_key
from hemiola.synth.plan import plan
from hemiola.synth.score import TICKS_PER_BAR, TICKS_PER_BEAT, Brief, truth_of
from hemiola.synth.seeds import split_seed, stream

some = st.one_of
briefs = st.builds(
    Brief,
    tempo_bpm=some(st.none(), st.integers(60, 160)),
    key=some(st.none(), st.sampled_from(KEYS)),
    mode=some(st.none(), st.sampled_from(MODES)),
    lead=some(st.none(), st.sampled_from((*instruments.LEADS, *instruments.GUESTS))),
    drums=some(st.none(), st.booleans()),
)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), brief=briefs)
def test_a_brief_is_kept_and_does_not_shift_what_it_leaves_open(seed: int, brief: Brief):
    free, kept = truth_of(plan(seed, 1)), truth_of(plan(seed, 1, brief))
    for field in ("tempo_bpm", "key", "mode", "lead", "drums"):
        wanted = getattr(brief, field)
        assert getattr(kept, field) == (getattr(free, field) if wanted is None else wanted)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9), tempo=st.integers(60, 160), rate=st.sampled_from((50, 75, 150)))
def test_beats_of_whole_frames_are_near_the_tempo_and_in_strict_time_nothing_leaves_them(
    seed: int, tempo: int, rate: int
):
    score = plan(seed, 3, Brief(tempo_bpm=tempo, frame_rate=rate, strict=True))
    beat = Fraction(60) / score.tempo_bpm * rate
    assert beat.denominator == 1 and abs(beat - Fraction(60 * rate, tempo)) <= Fraction(1, 2)
    assert score.named_bpm == tempo and abs(score.tempo_bpm / tempo - 1) < 0.027
    assert all(score.when(TICKS_PER_BEAT * count) * rate == count * beat for count in range(8))
    events = [*score.hits, *(note for part in score.parts for note in part.notes)]
    assert all(event.late_ms == 0 for event in events) and score.swing_ticks == 0
    # Nothing but time is another: what is played is what was played loosely.
    loose = plan(seed, 3, Brief(tempo_bpm=tempo))
    assert (score.key, score.instruments, score.kit, score.dynamics) == (
        loose.key,
        loose.instruments,
        loose.kit,
        loose.dynamics,
    )


def test_a_piece_that_builds_up_is_played_louder_bar_by_bar_and_most_are_even():
    scores = [plan(seed, 8, Brief(tempo_bpm=120)) for seed in range(300)]
    counted = Counter(score.dynamics for score in scores)
    assert counted["even"] > 220 and min(counted["building"], counted["fading"]) > 10
    for score in scores:
        bass = next((part.notes for part in score.parts if part.role == "bass"), ())
        downbeats = [note.velocity for note in bass if note.start_ticks % TICKS_PER_BAR == 0]
        steps = np.sign(np.diff(downbeats)).astype(int).tolist()
        assert set(steps) <= {{"even": 0, "building": 1, "fading": -1}[score.dynamics]}


def test_guests_play_where_a_brief_asks_and_nowhere_else():
    assert not set(instruments.GUESTS) & {name for seed in range(300) for name in plan(seed, 1).instruments}
    assert plan(0, 1, Brief(lead="trumpet")).lead == "trumpet"


@pytest.mark.parametrize("rate", [0, -50, 9])
def test_frames_too_long_for_a_beat_are_refused(rate: int):
    with pytest.raises(InputError, match="whole frames"):
        plan(0, 1, Brief(frame_rate=rate))


@pytest.mark.parametrize(("written", "meant"), [("a", "A"), ("Db", "C#"), ("d#", "Eb"), ("gb", "F#"), ("BB", "Bb")])
def test_keys_in_other_spellings(written: str, meant: str):
    assert named_key(written) == meant
    assert plan(0, 1, Brief(key=written)).key == meant


def test_triads_are_those_of_the_textbook():
    minor, major = Scale("A", "minor"), Scale("Eb", "major")
    assert [minor.triad(str(n)).name for n in range(1, 8)] == ["Am", "Bdim", "C", "Dm", "Em", "F", "G"]
    assert [major.triad(str(n)).name for n in range(1, 8)] == ["Eb", "Fm", "Gm", "Ab", "Bb", "Cm", "Ddim"]
    assert minor.triad("5+").name == "E" and set(minor.triad("5+").pitch_classes) == {4, 8, 11}


def test_draws_are_varied_and_in_the_promised_shares():
    truths = [truth_of(plan(seed, 1)) for seed in range(400)]
    assert 0.58 < sum(truth.drums for truth in truths) / 400 < 0.72
    assert {truth.lead for truth in truths} == set(instruments.LEADS)
    assert {truth.key for truth in truths} == set(KEYS) and {truth.kit for truth in truths} == {None, *grooves.KITS}
    assert min(Counter(truth.lead for truth in truths).values()) > 25
    tempos = [truth.tempo_bpm for truth in truths]
    assert min(tempos) >= 60 and max(tempos) <= 160 and len(set(tempos)) > 80
    assert 0.4 < sum(truth.mode == "minor" for truth in truths) / 400 < 0.6


def test_melodies_use_the_scale_and_stay_in_the_compass():
    for seed in range(60):
        score = plan(seed, 12)
        scale = Scale(score.key, score.mode)
        allowed = {scale.pitch(degree) % 12 for degree in range(7)} | {(scale.tonic + 11) % 12}
        low, high = instruments.INSTRUMENTS[score.lead].compass
        lead = score.parts[0]
        assert all(note.pitch % 12 in allowed and low <= note.pitch <= high for note in lead.notes)
        assert len({note.pitch for note in lead.notes}) >= 3
        leaps = [abs(a.pitch - b.pitch) for a, b in zip(lead.notes, lead.notes[1:])]
        assert sum(leap <= 5 for leap in leaps) > 0.6 * len(leaps)


def test_motifs_come_back():
    """Bars 1 and 2 of the form A A B A share their rhythm, and bar 4 does; bar 3 is free."""
    returned = 0
    for seed in range(40):
        lead = plan(seed, 16, Brief(tempo_bpm=120)).parts[0].notes
        bars = [[n.length_ticks for n in lead if n.start_ticks // TICKS_PER_BAR == bar] for bar in range(4)]
        assert bars[0] == bars[1] == bars[3]
        returned += bars[0] == bars[2]
    assert returned < 20


def test_bass_plays_the_root_where_a_chord_begins():
    heard = 0
    for seed in range(40):
        score = plan(seed, 8)
        bass = next((part for part in score.parts if part.role == "bass"), None)
        for harmony in score.harmonies if bass else ():
            first = [note for note in bass.notes if note.start_ticks == harmony.start_ticks]
            assert all(note.pitch % 12 == harmony.chord.root for note in first)
            heard += len(first)
    assert heard > 60


def test_without_drums_some_player_marks_every_beat():
    for seed in range(80):
        score = plan(seed, 8, Brief(drums=False))
        attacks = {
            note.start_ticks
            for part in score.parts
            if part.instrument not in instruments.SLOW_TO_SPEAK
            for note in part.notes
        }
        beats = range(0, max(attacks) + 1, TICKS_PER_BEAT)
        assert set(beats) <= attacks, seed


def test_splits_never_share_a_seed():
    drawn = {split: {split_seed(split, index) for index in range(5000)} for split in ("train", "valid", "test")}
    assert all(len(seeds) == 5000 for seeds in drawn.values())
    assert not drawn["train"] & drawn["valid"] and not (drawn["train"] | drawn["valid"]) & drawn["test"]
    with pytest.raises(InputError, match="split"):
        split_seed("holdout", 0)
    with pytest.raises(InputError, match="negative"):
        split_seed("train", -1)


def test_streams_of_a_seed_are_independent():
    draws = {stream(seed, name).random() for seed in range(50) for name in ("attributes", "music", "timing", "caption")}
    assert len(draws) == 200
