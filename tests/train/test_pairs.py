"""Datasets of pairs on disk, and how tracks are split and clips are paired."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola.errors import HemiolaError, InputError
from hemiola.train import pairs
from hemiola.train.pairing import Pairing
from hemiola.train.pairs import Cut, Pair, Stretch

SETTINGS = {"made": "here", "clip_seconds": 1.5, "sample_rate": 2000}


def cut(clip: str, track: str = "", split: str = "train") -> Cut:
    return Cut(clip, track or clip, split, f"{track}.wav", 30, 3000, 2000, "ab12")


def written(folder: Path) -> Path:
    pairs.prepare(folder, SETTINGS)
    rows = [Pair("train", "a", "b", Stretch(1.25, 0.5, 0.25, 1.0)), Pair("valid", "c", "c")]
    pairs.write(folder, [cut("a"), cut("b"), cut("c", split="valid")], rows)
    return folder


# ---- on disk


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = pairs.read(written(tmp_path / "new" / "set"))
    assert found.settings == SETTINGS
    assert list(found.cuts.values()) == [cut("a"), cut("b"), cut("c", split="valid")]
    assert found.pairs == (Pair("train", "a", "b", Stretch(1.25, 0.5, 0.25, 1.0)), Pair("valid", "c", "c"))
    assert found.of("valid") == [Pair("valid", "c", "c")]
    # Rows are JSON that anything can read.
    rows = [json.loads(line) for line in (found.folder / "pairs.jsonl").read_text("utf-8").splitlines()]
    assert rows[0]["truth"]["ratio"] == 1.25
    assert rows[1]["truth"] is None


def test_a_dataset_is_gone_on_with_in_its_own_form_only(tmp_path: Path) -> None:
    folder = written(tmp_path / "set")
    pairs.prepare(folder, {"made": "here", "sample_rate": 2000})
    assert pairs.read(folder).settings == SETTINGS
    with pytest.raises(InputError, match=r"set already holds a dataset made with sample_rate 2000, not 4000"):
        pairs.prepare(folder, {**SETTINGS, "sample_rate": 4000})
    (tmp_path / "song.wav").write_bytes(b"mine")
    with pytest.raises(InputError, match="holds something else"):
        pairs.prepare(tmp_path, SETTINGS)
    assert not (tmp_path / "clips").exists()
    with pytest.raises(InputError, match=r"song\.wav cannot hold a dataset: File exists"):
        pairs.prepare(tmp_path / "song.wav", SETTINGS)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("manifest.jsonl", "{", r"manifest\.jsonl, line 1: not a row"),
        ("manifest.jsonl", '{"clip": "a"}', r"manifest\.jsonl, line 1: not a row"),
        ("pairs.jsonl", '{"split": "train", "input": "a", "target": "b"}\n[1]', r"pairs\.jsonl, line 2: not a row"),
        ("pairs.jsonl", '{"split": "train", "input": "a", "target": "b", "truth": 3}', r"pairs\.jsonl, line 1: not"),
        ("pairs.jsonl", '{"split": "train", "input": "a", "target": "z"}', r"names the clip z, which manifest"),
        ("dataset.json", "[1]", r"dataset\.json cannot be read"),
        ("dataset.json", None, r"is not a finished dataset of pairs"),
        ("pairs.jsonl", None, r"is not a finished dataset of pairs"),
        ("manifest.jsonl", None, r"cannot read .*manifest\.jsonl"),
    ],
)
def test_damage_is_named(tmp_path: Path, file: str, content: str | None, said: str) -> None:
    path = written(tmp_path / "set") / file
    path.unlink()
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(InputError, match=said) as caught:
        pairs.read(tmp_path / "set")
    assert "\n" not in str(caught.value)


# ---- splits and pairs

tracks = st.dictionaries(st.text(min_size=1, max_size=6), st.integers(1, 5), min_size=1, max_size=14)
kinds = st.sampled_from(["within", "across"])


@settings(deadline=None)
@given(tracks, kinds, st.floats(0, 0.99), st.integers(0, 9))
def test_no_pair_crosses_the_split(clips: dict[str, int], kind: str, share: float, seed: int) -> None:
    pairing = Pairing(kind, share, seed)
    able = sum(count > 1 for count in clips.values()) if kind == "within" else len(clips)
    if able < (1 if kind == "within" else 2):
        with pytest.raises(HemiolaError, match=f"no pair can be made {kind} tracks") as caught:
            pairing.splits(clips)
        assert caught.value.exit_code == 1
        return
    splits = pairing.splits(clips)
    assert splits.keys() == clips.keys()
    cuts = [cut(f"{track}-{place}", track, splits[track]) for track, count in clips.items() for place in range(count)]
    by_name = {each.clip: each for each in cuts}
    made = pairing.pairs(cuts)
    for pair in made:
        one, other = by_name[pair.input], by_name[pair.target]
        assert one.split == other.split == pair.split == splits[one.track]
        assert one.clip != other.clip
        assert (one.track == other.track) == (kind == "within")
    # Each clip that can be paired is an input, once.
    lone = {each.clip for each in cuts if kind == "within" and clips[each.track] == 1}
    assert Counter(pair.input for pair in made) == Counter(by_name.keys() - lone)
    assert any(pair.split == "train" for pair in made)
    assert pairing.pairs(cuts) == made == pairing.pairs(cuts[::-1])


@pytest.mark.parametrize(
    ("kind", "count", "share", "held_out"),
    [("across", 40, 0.1, 4), ("across", 10, 0.1, 2), ("across", 3, 0.1, 0), ("across", 4, 0.9, 2),
     ("within", 10, 0.1, 1), ("within", 2, 0.1, 1), ("within", 1, 0.5, 0), ("across", 40, 0.0, 0)],
)  # fmt: skip
def test_the_share_that_is_held_out(kind: str, count: int, share: float, held_out: int) -> None:
    splits = Pairing(kind, share).splits({f"song {number}": 3 for number in range(count)})
    assert Counter(splits.values())["valid"] == held_out


def test_another_seed_draws_others_and_more_music_moves_few() -> None:
    songs = {f"song {number}": 2 for number in range(60)}
    splits = Pairing(valid_share=0.2).splits(songs)
    assert Pairing(valid_share=0.2, seed=1).splits(songs) != splits
    more = Pairing(valid_share=0.2).splits({**songs, **{f"new {number}": 2 for number in range(6)}})
    assert sum(more[song] != split for song, split in splits.items()) <= 3


@pytest.mark.parametrize(("kind", "share", "said"), [("beside", 0.1, "within, across"), ("across", 1.0, "below 1")])
def test_what_is_no_pairing(kind: str, share: float, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Pairing(kind, share)
