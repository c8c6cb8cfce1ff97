"""Captions say what is true, in a small and closed vocabulary."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import pytest

from hemiola.synth.captions import LEAD_NAMES, describe, lead_named, pace
from hemiola.synth.instruments import GUESTS, LEADS
from hemiola.synth.plan import plan
from hemiola.synth.score import Brief, Score
from hemiola.synth.seeds import stream

COUNT = 500
WORDS_OF_DRUMS = r"drums?|beat\b|claps"


@cache
def captioned() -> list[tuple[Score, str]]:
    scores = [plan(seed, "0.5") for seed in range(COUNT)]
    return [(score, describe(score, stream(score.seed, "caption"))) for score in scores]


def test_the_lead_is_always_named():
    for score, caption in captioned():
        assert lead_named(caption) == score.lead, caption
    assert lead_named("no drums, 80 bpm") is None


@pytest.mark.parametrize(
    ("caption", "lead"),
    [
        ("Slow Piano over strings", "piano"),
        ("80 bpm, music box bells backed by guitar", "bells"),
        ("a synthesizer tune", "synth"),
        ("harpsichord", None),
        ("strings over piano", "strings"),
        ("brass with drums", "trumpet"),
    ],
)
def test_the_first_instrument_of_a_caption_is_the_lead(caption: str, lead: str | None):
    assert lead_named(caption) == lead


def test_every_lead_has_names_of_its_own():
    assert set(LEAD_NAMES) == {*LEADS, *GUESTS}
    counted = Counter(name for names in LEAD_NAMES.values() for name in set(names))
    assert counted.most_common(1)[0][1] == 1
    assert all(names.count(lead) == 2 for lead, names in LEAD_NAMES.items())


def test_a_number_is_the_tempo_and_mostly_there():
    told = [(score, re.search(r"(\d+) (bpm|beats per minute)", caption)) for score, caption in captioned()]
    assert all(int(found[1]) == score.tempo_bpm == score.named_bpm for score, found in told if found)
    assert 0.83 < sum(bool(found) for _, found in told) / COUNT < 0.93


def test_a_tempo_of_whole_frames_keeps_the_name_that_was_drawn():
    for seed in range(60):
        score = plan(seed, "0.5", Brief(frame_rate=50))
        found = re.search(r"(\d+) (bpm|beats per minute)", describe(score, stream(seed, "caption")))
        assert not found or int(found[1]) == score.named_bpm == plan(seed, "0.5").tempo_bpm


def test_what_grows_or_fades_is_told_only_where_it_does():
    told = Counter()
    for score, caption in captioned():
        said = [word for word in ("building", "louder", "fading", "softer") if word in caption]
        assert not said or score.dynamics == ("building" if said[0] in ("building", "louder") else "fading"), caption
        told[score.dynamics] += bool(said)
    assert told["building"] > 10 and told["fading"] > 10


def test_a_word_for_the_pace_fits_the_tempo():
    words = {"slow": "slow", "downtempo": "slow", "moderate": "moderate", "medium": "moderate"}
    words |= {"fast": "fast", "quick": "fast"}
    found = 0
    for score, caption in captioned():
        for word in set(re.findall(r"[a-z]+", caption.lower())) & set(words):
            assert words[word] == pace(score.tempo_bpm), caption
            found += 1
    assert found > COUNT / 3
    assert (pace(60), pace(100), pace(160)) == ("slow", "moderate", "fast")


def test_key_and_mode_are_the_truth_where_they_are_told():
    told = 0
    for score, caption in captioned():
        modes = set(re.findall(r"major|minor", caption.lower()))
        assert modes <= {score.mode}, caption
        named = re.search(r"\b([a-g])(#|b| sharp| flat)? (?:major|minor)\b(?! key)", caption.lower())
        if named:
            sign = {" sharp": "#", " flat": "b", None: ""}.get(named[2], named[2])
            assert named[1].upper() + sign == score.key, caption
            told += 1
    assert 0.65 < told / COUNT < 0.85


def test_drums_are_told_when_there_are_any_and_their_absence_otherwise():
    absent = 0
    for score, caption in captioned():
        denied = re.search(r"(no|without) (drums|percussion)", caption.lower())
        spoken = re.search(WORDS_OF_DRUMS, caption.lower())
        assert not (denied and score.kit), caption
        assert score.kit or denied or not spoken, caption
        absent += bool(denied)
    assert 0.2 < absent / COUNT < 0.4
    assert sum(score.kit is not None for score, _ in captioned()) / COUNT > 0.58


def test_players_that_are_not_there_are_not_named():
    names = ("piano", "guitar", "bells", "organ", "synth", "flute", "strings", "marimba", "pad", "bass")
    for score, caption in captioned():
        heard = {name for name in names if re.search(rf"\b{name}\b", caption.lower())}
        allowed = set(score.instruments) | {word for name in score.instruments for word in name.split()}
        assert heard <= allowed, caption
        assert "solo" not in caption or len(score.instruments) == 1, caption


def test_the_vocabulary_is_small_and_the_wording_varied():
    words = Counter(word for _, caption in captioned() for word in re.findall(r"[^\s,\d]+", caption.lower()))
    assert 80 < len(words) < 400
    shapes = {re.sub(r"\d+", "N", caption) for _, caption in captioned()}
    assert len(shapes) > 0.9 * COUNT
    starts = Counter(caption.split()[0].lower() for _, caption in captioned())
    assert starts.most_common(1)[0][1] < COUNT / 3


def test_captions_are_clean_prose():
    for _, caption in captioned():
        assert caption == " ".join(caption.split()).strip(" ,")
        assert not re.search(r" [,.]|[,.][,.]|, with |\b(\w+) \1\b", caption.replace(", with ", " ", 1)), caption
        assert caption.isascii() and 8 <= len(caption) <= 160


def test_one_score_can_be_described_in_many_ways():
    score = plan(3, 1, Brief(lead="piano", mode="minor", key="A", tempo_bpm=80, kit="soft"))
    told = {describe(score, stream(seed, "caption")) for seed in range(40)}
    assert len(told) > 30
    assert any("slow" in caption for caption in told) and any("A minor" in caption for caption in told)
