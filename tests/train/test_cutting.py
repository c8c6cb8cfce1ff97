"""Folders of audio cut into clips: which files are found, where each clip lies, and what a second run has to do."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from hemiola.audio import io
from hemiola.errors import InputError
from hemiola.train import cutting, pairs
from hemiola.train.cutting import CutFile, Form, cut_all
from hemiola.train.sources import found, track_of

RATE = 2000
FORM = Form(Fraction(1, 10), RATE)


def sound(path: Path, samples: int, rate: int = RATE, channels: int = 1, subtype: str | None = None) -> np.ndarray:
    """A file of noise that is nowhere the same; returns what stands in it, float32 [samples, channels]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.2 * np.random.default_rng(samples).standard_normal((samples, channels))
    soundfile.write(path, noise, rate, subtype=subtype)
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pairs.prepare(tmp_path / "set", FORM.settings)
    return tmp_path / "set"


def cut(tmp_path: Path, folder: Path) -> dict[str, CutFile]:
    return {each.fate.file: each for each in cut_all(tmp_path / "audio", folder, FORM)}


def clips(folder: Path, file: CutFile) -> list[np.ndarray]:
    return [io.read(pairs.clip_path(folder, each.clip))[0][0] for each in file.slices]


# ---- which files there are


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    music, elsewhere = tmp_path / "audio", tmp_path / "elsewhere"
    for path in (music / "b.wav", music / "in" / "A.FLAC", music / ".hidden.wav", elsewhere / "c.mp3",
                 music / "set" / "clips" / "x.flac", music / "notes.txt", music / "song.m4a"):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for link, target in (("in/up", ".."), ("aa", "in"), ("far", "../elsewhere"), ("again", "../elsewhere"),
                         ("self.wav", "self.wav"), ("gone.wav", "nowhere"), ("l.wav", "b.wav")):  # fmt: skip
        (music / link).symlink_to(target)
    names, lost = found(music, music / "set")
    assert names == ["again/c.mp3", "b.wav", "in/A.FLAC", "l.wav", "song.m4a"]
    assert {fate.file: fate.why for fate in lost} == {
        "aa": "is a link to a folder that is read in its own place",
        "far": "is a link to a folder that is read in its own place",
        "gone.wav": "is a link that leads nowhere",
        "in/up": "is a link to a folder that is read in its own place",
        "self.wav": "is a link that leads nowhere",
    }
    with pytest.raises(InputError, match="no such folder of audio"):
        found(music / "b.wav", music / "set")


def test_a_song_in_two_formats_is_one_track() -> None:
    assert track_of("in/Song 1.live.wav") == track_of("in/Song 1.live.mp3") == "in/Song 1.live"
    assert track_of("Song.wav") != track_of("in/Song.wav")


# ---- where clips lie


def test_clips_lie_one_after_another_to_the_sample(tmp_path: Path, folder: Path) -> None:
    whole = sound(tmp_path / "audio" / "A song!.wav", 759, subtype="PCM_16")[:, 0]
    file = cut(tmp_path, folder)["A song!.wav"]
    assert file.fate.used
    assert (file.fate.clips, file.fate.seconds, file.fate.sample_rate) == (3, 0.3795, RATE)
    assert [(each.start_samples, each.samples) for each in file.slices] == [(0, 200), (200, 200), (400, 200)]
    np.testing.assert_array_equal(np.concatenate(clips(folder, file)), whole[:600])
    digest = hashlib.sha256((tmp_path / "audio" / "A song!.wav").read_bytes()).hexdigest()
    assert file.fate.sha256 == digest
    assert file.slices[2].clip == f"a-song-{digest[:12]}-0002"


@pytest.mark.parametrize(("rate", "channels", "subtype"), [(44100, 2, None), (8000, 1, "PCM_U8"), (1000, 3, "FLOAT")])
def test_other_rates_and_channels_are_what_soxr_makes_of_their_mean(
    tmp_path: Path, folder: Path, rate: int, channels: int, subtype: str | None
) -> None:
    samples = rate * 25 // 100
    audio = sound(tmp_path / "audio" / "a.wav", samples, rate, channels, subtype)
    file = cut(tmp_path, folder)["a.wav"]
    assert [(each.start_samples, each.samples) for each in file.slices] == [(0, rate // 10), (rate // 10, rate // 10)]
    expected = soxr.resample(audio.mean(1), rate, RATE, quality="HQ")[:400]
    np.testing.assert_allclose(np.concatenate(clips(folder, file)), expected, atol=1e-6)


def test_an_mp3_is_cut_as_it_decodes(tmp_path: Path, folder: Path) -> None:
    audio = sound(tmp_path / "audio" / "a.mp3", 44100, 44100, 2)
    file = cut(tmp_path, folder)["a.mp3"]
    assert (file.fate.channels, file.fate.sample_rate) == (2, 44100)
    expected = soxr.resample(audio.mean(1), 44100, RATE, quality="HQ")
    assert file.fate.clips == len(expected) // 200 >= 10
    np.testing.assert_allclose(np.concatenate(clips(folder, file)), expected[: 200 * file.fate.clips], atol=1e-6)


def test_a_clip_that_would_clip_is_turned_down_and_says_by_how_much(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", np.r_[np.full(200, 0.5), np.full(200, 2.0)], RATE, subtype="FLOAT")
    file = cut(tmp_path, folder)["a.wav"]
    assert file.slices[0].gain_db == 0
    assert file.slices[1].gain_db == pytest.approx(-6.02, abs=0.01)
    assert [clip.max() for clip in clips(folder, file)] == [pytest.approx(0.5), pytest.approx(1.0, abs=1e-4)]


def test_files_that_give_nothing_say_why(tmp_path: Path, folder: Path) -> None:
    audio = tmp_path / "audio"
    sound(audio / "good.wav", 300)
    sound(audio / "short.flac", 199)
    (audio / "bad.mp3").write_bytes(b"no sound at all")
    (audio / "cut.wav").write_bytes((audio / "good.wav").read_bytes()[:300])
    (audio / "twin.wav").write_bytes((audio / "good.wav").read_bytes())
    (audio / "empty.ogg").touch()
    reasons = {name: file.fate.why for name, file in cut(tmp_path, folder).items()}
    assert list(reasons) == sorted(reasons)
    for name, why in {"bad.mp3": "is not audio", "cut.wav": "is cut short", "empty.ogg": "is empty", "good.wav": "",
                      "short.flac": "is too short: 0.0995 s, a clip has 0.1 s",
                      "twin.wav": "holds the same bytes as good.wav"}.items():  # fmt: skip
        assert reasons[name].startswith(why) and bool(reasons[name]) == bool(why)
    rows = [json.loads(line) for line in (folder / "report.jsonl").read_text("utf-8").splitlines()]
    assert {row["file"]: row["why"] for row in rows} == reasons
    assert [row["file"] for row in rows if row["used"]] == ["good.wav"]
    # Nothing stands for what could not be read.
    assert len(list((folder / "clips").iterdir())) == 1


# ---- what a second run does


def test_a_second_run_writes_nothing_and_a_file_that_moved_is_known(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(tmp_path / "audio" / "a.wav", 450)
    sound(tmp_path / "audio" / "short.wav", 50)
    first = cut(tmp_path, folder)
    monkeypatch.setattr(cutting, "_cut", None)  # would be an error, were it called
    assert cut(tmp_path, folder) == first
    (tmp_path / "audio" / "new").mkdir()
    (tmp_path / "audio" / "a.wav").rename(tmp_path / "audio" / "new" / "name.wav")
    assert cut(tmp_path, folder)["new/name.wav"].slices == first["a.wav"].slices


def test_a_run_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, length in (("a", 450), ("b", 650)):
        sound(tmp_path / "audio" / f"{name}.wav", length)
    write, written = io.write, []

    def stopping(path: Path, *rest: object, **options: object) -> io.Saved:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        return write(path, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cutting.io, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        cut(tmp_path, folder)
    kept = {path: path.stat().st_mtime_ns for path in written[:2]}
    monkeypatch.setattr(cutting.io, "write", write)
    assert [file.fate.clips for file in cut(tmp_path, folder).values()] == [2, 3]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list((folder / "clips").iterdir())) == 5


def test_a_file_that_changed_or_lost_a_clip_is_cut_again(tmp_path: Path, folder: Path) -> None:
    sound(tmp_path / "audio" / "a.wav", 450)
    sound(tmp_path / "audio" / "b.wav", 250)
    first = cut(tmp_path, folder)
    lost = pairs.clip_path(folder, first["b.wav"].slices[0].clip)
    before = lost.read_bytes()
    lost.unlink()
    whole = sound(tmp_path / "audio" / "a.wav", 850)[:, 0]
    again = cut(tmp_path, folder)
    assert lost.read_bytes() == before
    np.testing.assert_array_equal(np.concatenate(clips(folder, again["a.wav"])), whole[:800])
    assert not {each.clip for each in first["a.wav"].slices} & {each.clip for each in again["a.wav"].slices}
