"""`hemiola pairs`: what becomes of every kind of file, which codec is used, and that nothing is done twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hemiola.cli import checkpoints
from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import Encodec, save
from hemiola.errors import DownloadError, WeightsError
from hemiola.train import cutting, pairs
from hemiola.train.codec import initialise
from hemiola.train.latents import LatentCache
from hemiola.weights.hub import Checkpoint

RATE = 2000

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny codec at 2 kHz."""
    folder = tmp_path_factory.mktemp("codec")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"hidden_size": 4, "num_filters": 2, "upsampling_ratios": (4, 2), "num_lstm_layers": 1}
        network = Encodec(EncodecConfig(target_bandwidths=(2.0,), sampling_rate=RATE, codebook_size=16, **shape))
        initialise(network)
        save(network, folder)
    return folder


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Four songs in four formats, and what else a folder may hold."""
    folder, rng = tmp_path / "music", np.random.default_rng(0)
    (folder / "album").mkdir(parents=True)

    def song(name: str, seconds: float, rate: int, channels: int = 1, subtype: str | None = None) -> None:
        noise = 0.1 * rng.standard_normal((round(seconds * rate), channels))
        soundfile.write(folder / name, noise, rate, subtype=subtype)

    song("stereo.mp3", 7, 44100, 2)
    song("album/eight bits.wav", 4.5, 8000, 1, "PCM_U8")
    song("album/plain.flac", 6, 2000)
    song("wide.ogg", 4, 8000, 2)
    song("second.wav", 1, 2000)
    (folder / "corrupt.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVEnonsense")
    (folder / "album" / "cover.jpg").write_bytes(b"a picture")
    (folder / "album" / "loop").symlink_to("..")
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_folder_of_all_kinds(hemiola: Run, tmp_path: Path, music: Path, codec: Path) -> None:
    ran = hemiola("pairs", "music", "-o", "set", "--clip-seconds", 2, "--codec", codec, "--valid-share", 0.4)
    assert (ran.code, ran.out) == (0, "set\n")
    left_out = [line.removeprefix("  left out: ") for line in ran.err.splitlines() if "left out" in line]
    assert len(left_out) == 3
    assert left_out[0] == "album/loop is a link to a folder that is read in its own place"
    assert left_out[1].startswith("corrupt.wav ")
    assert left_out[2] == "second.wav is too short: 1 s, a clip has 2 s"
    assert "4 of 7 files used" in ran.err
    report = {row["file"]: row for row in rows(tmp_path / "set" / "report.jsonl")}
    gave = {file: (row["clips"], row["sample_rate"], row["channels"]) for file, row in report.items() if row["used"]}
    assert gave == {
        "album/eight bits.wav": (2, 8000, 1),
        "album/plain.flac": (3, 2000, 1),
        "stereo.mp3": (3, 44100, 2),
        "wide.ogg": (2, 8000, 2),
    }
    dataset = pairs.read(tmp_path / "set")
    assert len(dataset.cuts) == len(dataset.pairs) == 10
    for clip, cut in dataset.cuts.items():
        assert dataset.audio(clip).shape == (1, 2 * RATE)
        assert np.abs(dataset.audio(clip)).max() > 0.01  # no zeros in the place of anything
        assert cut.samples == 2 * cut.sample_rate
        assert cut.start_samples % cut.samples == 0
    # Two tracks train and two validate; a pair is of two tracks of one split.
    splits = {cut.track: cut.split for cut in dataset.cuts.values()}
    assert sorted(splits.values()) == ["train", "train", "valid", "valid"]
    for pair in dataset.pairs:
        tracks = {dataset.cuts[pair.input].track, dataset.cuts[pair.target].track}
        assert len(tracks) == 2
        assert {splits[track] for track in tracks} == {pair.split}
    key = dataset.settings["codec"]["latents"]
    assert {path.stem for path in (tmp_path / "set" / "latents" / key).iterdir()} == set(dataset.cuts)
    latents = np.load(tmp_path / "set" / "latents" / key / f"{dataset.pairs[0].input}.npy")
    assert latents.shape == (4, 500)


def test_a_second_run_does_no_work_again_and_more_music_only_its_own(
    hemiola: Run, tmp_path: Path, music: Path, codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("pairs", "music", "-o", "set", "--clip-seconds", 2, "--codec", codec)
    hemiola(*words)
    made = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*.*") if path.suffix in (".flac", ".npy")
    }
    before = pairs.read(tmp_path / "set")
    monkeypatch.setattr(LatentCache, "_encoded", None)  # would be an error, were it called
    monkeypatch.setattr(cutting.io, "write", None)
    assert hemiola(*words).code == 0
    assert pairs.read(tmp_path / "set") == before
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    soundfile.write(music / "more.wav", 0.1 * np.random.default_rng(1).standard_normal(5 * RATE), RATE)
    assert hemiola(*words).code == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert len(pairs.read(tmp_path / "set").cuts) == len(before.cuts) + 2
    ran = hemiola(*words[:4], "--clip-seconds", 1, "--codec", codec)
    assert (ran.code, ran.error) == (
        2,
        "set already holds a dataset made with clip_seconds 2.0, not 1.0: choose another folder",
    )


def test_pairs_within_tracks(hemiola: Run, tmp_path: Path, music: Path, codec: Path) -> None:
    words = ("pairs", "music", "-o", "set", "--clip-seconds", 2, "--codec", codec, "--pairing", "within")
    assert hemiola(*words, "--seed", 3).code == 0
    dataset = pairs.read(tmp_path / "set")
    assert len(dataset.pairs) == 10
    for pair in dataset.pairs:
        assert dataset.cuts[pair.input].track == dataset.cuts[pair.target].track
        assert pair.input != pair.target
    assert {pair.split for pair in dataset.pairs} == {"train", "valid"}


def test_a_folder_without_music_fails_with_one_line(hemiola: Run, tmp_path: Path, codec: Path) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "corrupt.wav").write_bytes(b"RIFF nothing")
    ran = hemiola("pairs", "music", "-o", "set", "--codec", codec)
    assert (ran.code, ran.out) == (1, "")
    line = "error: no audio in music can be used (1 files): set/report.jsonl says why"
    assert ran.err.splitlines()[-1] == line
    assert "  left out: corrupt.wav is " in ran.err
    assert [row["used"] for row in rows(tmp_path / "set" / "report.jsonl")] == [False]
    assert not (tmp_path / "set" / "pairs.jsonl").exists()
    # One song alone cannot be paired across tracks.
    soundfile.write(tmp_path / "music" / "one.wav", np.full(50 * RATE, 0.1), RATE)
    ran = hemiola("pairs", "music", "-o", "set", "--codec", codec)
    assert (ran.code, ran.err.splitlines()[-1].startswith("error: no pair can be made across tracks")) == (1, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch", "-o", "set"], "no such folder of audio: nosuch"),
        (["music"], "output"),
        (["music", "-o", "set", "--pairing", "beside"], "choose one of within, across"),
        (["music", "-o", "set", "--valid-share", "1"], "share for validation"),
        (["music", "-o", "set", "--clip-seconds", "long"], "not a duration"),
        (["music", "-o", "set", "--clip-seconds", "0"], "a clip of 0 s"),
        (["music", "-o", "music"], "holds something else"),
    ],
)
def test_what_is_asked_wrongly_is_said_in_one_line(
    hemiola: Run, music: Path, codec: Path, words: list[str], said: str
) -> None:
    before = sorted(music.rglob("*"))
    ran = hemiola("pairs", *words, "--codec", codec)
    assert (ran.code, said in ran.error) == (2, True)
    assert sorted(music.rglob("*")) == before
    assert not Path("set").exists()


@pytest.mark.parametrize("published", [True, False])
def test_the_published_codec_is_used_where_it_can_be_had(
    hemiola: Run, music: Path, codec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    asked = []

    def found(name: str, allow_pickle: bool = False) -> Checkpoint:
        asked.append(name)
        if name == "facebook/encodec_24khz" and not published:
            raise DownloadError("facebook/encodec_24khz could not be fetched (no network): check the network")
        return Checkpoint(name, "", codec, bundled=name == "sketch-24khz")

    monkeypatch.setattr(checkpoints, "found", found)
    ran = hemiola("pairs", "music", "-o", "set", "--clip-seconds", 2)
    assert ran.code == 0
    used = "facebook/encodec_24khz" if published else "sketch-24khz"
    assert asked[-1] == used
    assert f"  codec: {used}\n" in ran.err
    assert ("could not be fetched" in ran.err) is not published
    assert "sketch-24khz" in pairs.read(tmp_path / "set").settings["codec"]["name"] or published


def test_a_codec_that_was_asked_for_is_not_replaced(hemiola: Run, music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, allow_pickle: bool = False) -> Checkpoint:
        raise WeightsError(f"there is no model and no folder '{name}'")

    monkeypatch.setattr(checkpoints, "found", missing)
    ran = hemiola("pairs", "music", "-o", "set", "--codec", "mine")
    assert (ran.code, ran.error) == (4, "there is no model and no folder 'mine'")
    assert not os.path.lexists("set")
