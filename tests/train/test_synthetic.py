"""Composed clip folders: the same from the same seeds, truth beside the sound, and gone on with where they stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hemiola.synth.compose import compose
from hemiola.train.data import clips
from hemiola.train.synthetic import Synthetic, fill

WANTED = Synthetic(pieces=2, valid_pieces=1, seconds=1.5, sample_rate=8000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    fill(folder, WANTED)
    return folder


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text("utf-8").splitlines()]


def test_clips_have_the_length_and_caption_that_were_composed(folder: Path) -> None:
    for split, count in (("train", 2), ("valid", 1)):
        found = clips(folder / split)
        assert [(clip.samples, clip.sample_rate) for clip in found] == [(12000, 8000)] * count
        assert [clip.caption for clip in found] == [row["caption"] for row in rows(folder / split)]
        assert all(clip.caption for clip in found)


def test_a_clip_is_what_its_seed_composes(folder: Path) -> None:
    row = rows(folder / "train")[1]
    piece = compose(row["seed"], seconds="1.5", sample_rate=8000, channels=1)
    audio, _ = soundfile.read(folder / "train" / row["file"], dtype="float32")
    np.testing.assert_allclose(audio, piece.audio[0], atol=1 / 32768)
    assert row["caption"] == piece.caption
    assert row["truth"]["tempo_bpm"] == piece.truth.tempo_bpm


def test_no_piece_is_in_both_parts(folder: Path) -> None:
    assert not {row["seed"] for row in rows(folder / "train")} & {row["seed"] for row in rows(folder / "valid")}


def test_leads_take_turns_and_beats_are_whole_frames(tmp_path: Path) -> None:
    wanted = Synthetic(
        pieces=4, valid_pieces=1, seconds=1.5, sample_rate=8000, frame_rate=50, strict=True, leads=("harp", "trumpet")
    )
    fill(tmp_path, wanted)
    made = rows(tmp_path / "train")
    assert [row["truth"]["lead"] for row in made] == ["harp", "trumpet"] * 2
    beats = [60 * 50 / row["truth"]["tempo_bpm"] for row in made]
    np.testing.assert_allclose(beats, np.round(beats))
    assert all(abs(start * 50 - round(start * 50)) < 1e-9 for row in made for start in row["starts"])


def test_what_is_there_is_not_composed_again(folder: Path) -> None:
    kept, lost = folder / "train" / "000000.flac", folder / "train" / "000001.flac"
    before, missing = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    seen: list[tuple[int, int]] = []
    fill(folder, WANTED, progress=lambda done, total: seen.append((done, total)))
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == missing
    assert seen == [(1, 3), (2, 3), (3, 3)]
