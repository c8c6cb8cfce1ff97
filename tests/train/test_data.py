"""Clip folders, segments drawn by number, and the order of steps."""

from __future__ import annotations

import json
import logging
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola.errors import AudioError, InputError
from hemiola.timebase import Timebase
from hemiola.train.data import Clip, Segments, StepData, StepOrder, clips, parted

RATE = 2000


def write(path: Path, samples: int, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """A file in which every sample says where it stands; returns [samples, channels]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.arange(samples, dtype=np.float32)[:, None] / 65536 + np.arange(channels, dtype=np.float32)[None] / 8
    soundfile.write(path, ramp, rate, subtype="FLOAT")
    return ramp


def tones(path: Path, samples: int, rate: int, channels: int = 1) -> np.ndarray:
    time = np.arange(samples)[:, None] / rate
    audio = 0.3 * np.sin(2 * np.pi * np.array([110.0, 170.0])[None, :channels] * time).astype(np.float32)
    soundfile.write(path, audio, rate, subtype="FLOAT")
    return audio


def segments(folder: Path, seconds: str = "0.1", channels: int = 1, seed: int = 3) -> Segments:
    return Segments(clips(folder), Timebase(RATE, 1), seconds, channels, seed)


def test_clips_come_in_name_order_with_their_captions(tmp_path: Path) -> None:
    for name in ("b.wav", "a.WAV", "deep/c.flac", "d.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.zeros(50, np.float32), RATE, format=name[-4:].strip(".").upper())
    rows = [{"file": "a.WAV", "caption": "one"}, {"file": "deep/c.flac", "caption": "three", "starts": [0, 1.5]}]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", "utf-8")
    (tmp_path / "b.txt").write_text(" two, façade\n", "utf-8")
    (tmp_path / "notes.md").write_text("no audio", "utf-8")
    assert [(clip.path.name, clip.caption) for clip in clips(tmp_path)] == [
        ("a.WAV", "one"),
        ("b.wav", "two, façade"),
        ("d.wav", ""),
        ("c.flac", "three"),
    ]
    assert [clip.starts for clip in clips(tmp_path)] == [(), (), (), (0.0, 1.5)]


def test_a_broken_file_is_passed_over_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "good.wav", 500)
    (tmp_path / "bad.wav").write_bytes(b"RIFF no sound")
    with caplog.at_level(logging.WARNING):
        assert [clip.path.name for clip in clips(tmp_path)] == ["good.wav"]
    assert "bad.wav" in caplog.text


@pytest.mark.parametrize(
    "line", ["{", "[1]", "3", '{"file": "a.wav"}', '{"file": "a.wav", "caption": "", "starts": 3}']
)
def test_a_broken_caption_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    write(tmp_path / "a.wav", 500)
    (tmp_path / "captions.jsonl").write_text('{"file": "a.wav", "caption": "x"}\n\n' + line, "utf-8")
    with pytest.raises(InputError, match=r"captions\.jsonl, line 3: expected"):
        clips(tmp_path)


def test_no_folder_and_no_audio_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        clips(tmp_path / "none")
    with pytest.raises(InputError, match=r"no audio that can be read.*\.wav"):
        clips(tmp_path)


def test_segments_are_whole_parts_of_clips_drawn_by_number(tmp_path: Path) -> None:
    for name, length in (("a", 200), ("b", 1500), ("c", 900)):
        write(tmp_path / f"{name}.wav", length)
    chosen = segments(tmp_path)
    starts = set()
    for item in range(60):
        segment = chosen[item]
        first = int(segment[0, 0] * 65536)
        assert torch.equal(segment, (torch.arange(first, first + 200) / 65536)[None].float())
        starts.add(first)
    assert len(starts) > 30
    # In any order, and by another object: item i is item i.
    again = segments(tmp_path)
    for item in (59, 3, 1_000_003):
        assert torch.equal(again[item], chosen[item])
    other = segments(tmp_path, seed=4)
    assert any(not torch.equal(other[item], chosen[item]) for item in range(5))


def test_a_segment_as_long_as_its_clip_and_one_sample_more(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 200)
    assert torch.equal(segments(tmp_path)[5], (torch.arange(200) / 65536)[None].float())
    with pytest.raises(InputError, match=r"as long as a training segment of 0\.1005 s"):
        segments(tmp_path, "0.1005")


@pytest.mark.parametrize(("there", "wanted", "expected"), [(2, 1, "mean"), (1, 2, "repeated"), (2, 2, "kept")])
def test_channels_are_mixed_or_repeated(tmp_path: Path, there: int, wanted: int, expected: str) -> None:
    ramp = write(tmp_path / "a.wav", 200, channels=there).T
    sums = {"mean": ramp.mean(0, keepdims=True), "repeated": np.concatenate([ramp, ramp]), "kept": ramp}
    np.testing.assert_allclose(segments(tmp_path, channels=wanted)[0], sums[expected], atol=1e-6)


@pytest.mark.parametrize("rate", [3000, 1500, 7350])
def test_other_rates_are_resampled(tmp_path: Path, rate: int) -> None:
    """A clip no longer than the segment: the whole of it, as soxr resamples it."""
    samples = -(-400 * rate // RATE)
    audio = tones(tmp_path / "a.wav", samples, rate)
    found = segments(tmp_path, "0.2")[0].numpy()
    assert found.shape == (1, 400)
    np.testing.assert_allclose(found[0], soxr.resample(audio, rate, RATE, quality="HQ")[:400, 0], atol=1e-6)
    # And it is still the tone that it was, away from the edges.
    time = np.arange(400) / RATE
    np.testing.assert_allclose(found[0, 100:300], 0.3 * np.sin(2 * np.pi * 110 * time)[100:300], atol=2e-3)


@settings(deadline=None)
@given(st.integers(500, 9000), st.integers(1, 400), st.integers(0, 40))
def test_a_segment_fits_in_every_clip_that_is_taken(rate: int, samples: int, spare: int) -> None:
    """What a segment reads never ends after the clip, and is never too short once it is resampled."""
    clip = Clip(Path("a.wav"), "", -(-samples * rate // RATE) + spare, rate)
    chosen = Segments([clip], Timebase(RATE, 1), Timebase(RATE, 1).seconds(samples), 1, 0)
    wanted = -(-chosen.samples * rate // RATE)
    assert wanted <= clip.samples
    assert Timebase(RATE, 1).samples(Timebase(rate, 1).seconds(wanted)) >= samples


def test_bad_audio_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(300, np.nan, np.float32), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav holds samples that are not finite"):
        segments(tmp_path)[0]
    longer = Clip(path, "", 10_000, RATE)
    with pytest.raises(AudioError, match=r"a\.wav ends before its own header says"):
        Segments([longer], Timebase(RATE, 1), "1", 1, 0)[0]
    gone = Clip(tmp_path / "gone.wav", "", 300, RATE)
    with pytest.raises(AudioError, match=r"cannot read .*gone\.wav"):
        Segments([gone], Timebase(RATE, 1), "0.1", 1, 0)[0]


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.data())
def test_the_ranks_shares_join_to_the_global_batch(steps: int, share: int, world: int, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, steps))
    ranks = [list(StepOrder(steps, share * world, rank, world, begin)) for rank in range(world)]
    joined = [[*chain(*parts)] for parts in zip(*ranks)]
    assert joined == list(StepOrder(steps, share * world))[begin:]
    # Every item once, in order.
    assert [*chain(*joined)] == list(range(begin * share * world, steps * share * world))
    assert len(StepOrder(steps, share * world, 0, world, begin)) == steps


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(InputError, match="global batch of 5 cannot be shared by 2"):
        StepOrder(3, 5, 0, 2)
    with pytest.raises(InputError, match="global batch of 6 cannot be shared by 2 processes in 2 parts"):
        StepOrder(1, 6, 0, 2, parts=2)


def test_loaders_give_batches_by_step(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 900)
    chosen = segments(tmp_path)
    data = StepData(chosen, chosen, steps=3, batch=2)
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    for step, batch in enumerate(batches):
        assert torch.equal(batch, torch.stack([chosen[2 * step], chosen[2 * step + 1]]))
    assert [batch.shape[0] for batch in data.val_dataloader()] == [1]
    assert StepData(chosen, None, steps=3, batch=2).val_dataloader() == []


def test_workers_change_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 900)
    chosen = segments(tmp_path)
    alone, shared = (list(StepData(chosen, None, steps=3, batch=2, workers=n).train_dataloader()) for n in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_a_plain_folder_is_parted_by_names_alone(tmp_path: Path) -> None:
    for number in range(60):
        write(tmp_path / "music" / f"{number}.wav", 10)
    train, valid = parted(tmp_path / "music")
    assert (len(train), len(valid)) == (57, 3)
    assert {clip.path.name for clip in (*train, *valid)} == {f"{number}.wav" for number in range(60)}
    (tmp_path / "music").rename(tmp_path / "moved")
    assert [clip.path.name for clip in parted(tmp_path / "moved")[1]] == [clip.path.name for clip in valid]


def test_a_folder_that_is_parted_already_stays_so(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("valid", 2)):
        for number in range(count):
            write(tmp_path / part / f"{number}.wav", 10)
    assert [len(part) for part in parted(tmp_path)] == [3, 2]
    write(tmp_path / "alone" / "one.wav", 10)
    with pytest.raises(InputError, match=r"only one file of audio in .*alone"):
        parted(tmp_path / "alone")


def test_a_json_beside_a_clip_is_its_caption(tmp_path: Path) -> None:
    for name, row in (("a", {"caption": "one"}), ("b", {"description": " two "}), ("c", {"title": "three"})):
        write(tmp_path / f"{name}.wav", 10)
        (tmp_path / f"{name}.json").write_text(json.dumps(row))
    assert [clip.caption for clip in clips(tmp_path)] == ["one", "two", ""]
    (tmp_path / "c.json").write_text("[1]")
    with pytest.raises(InputError, match=r"c\.json holds no caption"):
        clips(tmp_path)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=20)
def test_a_part_of_all_ranks_is_a_part_of_the_batch(world: int, parts: int, share: int) -> None:
    batch = world * parts * share
    ranks = [list(StepOrder(2, batch, rank, world, parts=parts))[1] for rank in range(world)]
    for part in range(parts):
        items = chain.from_iterable(rank[part * share : (part + 1) * share] for rank in ranks)
        first = batch + part * batch // parts
        assert sorted(items) == list(range(first, first + batch // parts))
