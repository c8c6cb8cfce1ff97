"""`hemiola generate`: what it writes, under which names, what makes it again, and what it refuses."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hemiola.cli import naming
from hemiola.generation import MusicGen
from hemiola.request import Request

Run = Callable[..., Any]


@pytest.fixture
def make(hemiola: Run, tiny: Path) -> Run:
    """`hemiola generate` with the tiny model, 0.1 s long unless it is said otherwise."""

    def run(*words: object) -> Any:
        length = () if "--seconds" in words else ("--seconds", "0.1")
        model = () if "--model" in words else ("--model", tiny)
        return hemiola("generate", *length, *model, "--device", "cpu", "--backend", "torch", *words)

    return run


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_prompt_becomes_a_file_as_long_as_asked(make: Run, tmp_path: Path) -> None:
    ran = make("slow piano", "--seconds", "0.7", "--seed", 7, "-o", "out.wav")
    assert (ran.code, ran.out) == (0, "out.wav\n")
    assert "22,400 samples, 0.7 s" in ran.err
    assert "x real time" in ran.err
    samples, rate = soundfile.read(tmp_path / "out.wav")
    assert (samples.shape, rate) == ((22400,), 32000)
    assert np.abs(samples).max() > 0.01
    assert listing(tmp_path) == {"out.wav", "out.json"}


def test_the_command_makes_what_python_makes(make: Run, tmp_path: Path, tiny: Path) -> None:
    make("slow piano", "--seed", 7, "-o", "out.wav", "--guidance", 2, "--top-k", 9, "--top-p", 0.9)
    model = MusicGen.from_pretrained(tiny, backend="torch", device="cpu")
    (result,) = model.generate([Request("slow piano", "0.1", 7, guidance=2, top_k=9, top_p=0.9)])
    np.testing.assert_array_equal(soundfile.read(tmp_path / "out.wav", dtype="float32")[0], result.audio.samples[0])


def test_the_record_says_all(make: Run, tmp_path: Path, tiny: Path) -> None:
    make("slow piano", "--seconds", "1/3", "--seed", 7, "-o", "out.flac", "--negative", "drums")
    record = json.loads((tmp_path / "out.json").read_text())
    expected = {"prompt": "slow piano", "seconds": "1/3", "seed": 7, "variation": 0, "negative": "drums", "top_k": 250}
    expected |= {"model": str(tiny), "revision": "", "backend": "torch", "device": "cpu", "dtype": "float32"}
    expected |= {"audio": "out.flac", "samples": 10667, "sample_rate": 32000, "channels": 1}
    assert expected.items() <= record.items()
    assert set(record["versions"]) == {"hemiola", "torch", "numpy", "python"}
    codes = MusicGen.from_pretrained(tiny).generate([Request("slow piano", "1/3", 7, negative="drums")])[0].codes
    by_hand = b"".join(value.to_bytes(4, "little") for value in codes.ravel().tolist())
    assert record["codes_sha256"] == hashlib.sha256(b"(4, 17)" + by_hand).hexdigest()


def test_the_same_seed_and_the_record_make_identical_files(make: Run, hemiola: Run, tmp_path: Path) -> None:
    make("slow piano", "--seed", 7, "-o", "first.wav", "--temperature", 0.9)
    make("slow piano", "--seed", 7, "-o", "second.wav", "--temperature", 0.9)
    assert hemiola("generate", "--from", "first.json", "-o", "third.wav").code == 0
    first, second, third = ((tmp_path / f"{name}.wav").read_bytes() for name in ("first", "second", "third"))
    assert first == second == third
    records = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("first", "third")]
    assert {**records[0], "audio": ""} == {**records[1], "audio": ""}


def test_options_beside_a_record_change_it(make: Run, hemiola: Run, tmp_path: Path) -> None:
    make("slow piano", "--seed", 7, "-o", "first.wav")
    assert hemiola("generate", "--from", "first.json", "-o", "longer.wav", "--seconds", "0.2").code == 0
    first, longer = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("first", "longer"))
    assert (len(first), len(longer)) == (3200, 6400)
    assert json.loads((tmp_path / "longer.json").read_text())["seed"] == 7


def test_a_record_that_comes_out_otherwise_is_an_error(make: Run, hemiola: Run, tmp_path: Path) -> None:
    make("slow piano", "--seed", 7, "-o", "first.wav")
    record = json.loads((tmp_path / "first.json").read_text())
    (tmp_path / "changed.json").write_text(json.dumps({**record, "codes_sha256": "0" * 64}))
    ran = hemiola("generate", "--from", "changed.json", "-o", "again.wav")
    assert ran.code == 1
    assert "does not come out the same" in ran.error
    assert "again.wav" not in listing(tmp_path)


def test_without_o_names_come_from_the_prompt_and_never_collide(make: Run, tmp_path: Path) -> None:
    names = [make("Slow piano, in A-minor!", "--seed", 7).out.strip() for _ in range(3)]
    assert names == [f"slow-piano-in-a-minor-7{end}.wav" for end in ("", "-2", "-3")]
    assert listing(tmp_path) == {*names, *(name.replace(".wav", ".json") for name in names)}
    # A record alone takes its name as well.
    (tmp_path / "bell-1.json").write_text("mine")
    assert make("bell", "--seed", 1).out == "bell-1-2.wav\n"
    assert (tmp_path / "bell-1.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        ("", "music"),
        (None, "music"),
        ("../../etc/passwd", "etc-passwd"),
        ("...", "music"),
        ("-o x", "o-x"),
        ("80 bpm\n\tdrums", "80-bpm-drums"),
        ("静かなピアノ", "静かなピアノ"),
        ("a" * 300, "a" * 40),
        ("con_trast", "con-trast"),
    ],
)
def test_a_slug_is_a_plain_file_name(prompt: str | None, slug: str) -> None:
    assert naming.slug(prompt) == slug
    assert len(f"{slug}-{2**64 - 1}-1000.wav".encode()) < 255


def test_o_may_be_a_folder_or_lack_an_extension(make: Run, tmp_path: Path) -> None:
    (tmp_path / "songs").mkdir()
    assert make("bell", "--seed", 1, "-o", "songs").out == "songs/bell-1.wav\n"
    assert make("bell", "--seed", 1, "-o", "song").out == "song.wav\n"
    assert listing(tmp_path / "songs") == {"bell-1.wav", "bell-1.json"}


@pytest.mark.parametrize("extension", ["flac", "ogg", "mp3", "WAV"])
def test_the_extension_names_the_format(make: Run, tmp_path: Path, extension: str) -> None:
    assert make("bell", "--seconds", "0.5", "-o", f"out.{extension}").code == 0
    assert soundfile.info(tmp_path / f"out.{extension}").format == extension.upper()


def test_count_makes_variations_that_each_can_be_made_again(make: Run, hemiola: Run, tmp_path: Path) -> None:
    ran = make("bell", "--seed", 3, "--count", 3, "-o", "out.wav")
    assert ran.out == "out-1.wav\nout-2.wav\nout-3.wav\n"
    sounds = [(tmp_path / f"out-{number}.wav").read_bytes() for number in (1, 2, 3)]
    assert len(set(sounds)) == 3
    assert hemiola("generate", "--from", "out-2.json", "-o", "again.wav").code == 0
    assert (tmp_path / "again.wav").read_bytes() == sounds[1]
    assert make("bell", "--seed", 3, "--count", 2).out == "bell-3-1.wav\nbell-3-2.wav\n"
    assert (tmp_path / "bell-3-2.wav").read_bytes() == sounds[1]


@pytest.mark.parametrize("side_by_side", [1, 2, 5])
def test_pieces_are_the_same_however_many_are_side_by_side(make: Run, tmp_path: Path, side_by_side: int) -> None:
    make("piano", "--count", 3, "--seed", 5, "-o", "usual.flac")
    ran = make("piano", "--count", 3, "--seed", 5, "-o", "song.flac", "--side-by-side", side_by_side)
    assert ran.out == "song-1.flac\nsong-2.flac\nsong-3.flac\n"
    for number in (1, 2, 3):
        np.testing.assert_allclose(
            soundfile.read(tmp_path / f"song-{number}.flac")[0],
            soundfile.read(tmp_path / f"usual-{number}.flac")[0],
            atol=2**-22,
        )


def test_count_without_a_seed_draws_one_for_all(make: Run, tmp_path: Path) -> None:
    make("bell", "--count", 2, "-o", "out.wav")
    records = [json.loads((tmp_path / f"out-{number}.json").read_text()) for number in (1, 2)]
    assert records[0]["seed"] == records[1]["seed"]
    assert [record["variation"] for record in records] == [0, 1]


def test_a_batch_file_is_a_prompt_a_line(make: Run, tmp_path: Path) -> None:
    lines = ["slow piano", "", json.dumps({"prompt": "bell", "seconds": "0.2", "seed": 9}), "  soft drums  ", "a", "b"]
    (tmp_path / "prompts.txt").write_text("\n".join(lines))
    ran = make("--batch-file", "prompts.txt", "--seed", 7, "-o", "out.wav")
    assert ran.out.split() == [f"out-{number}.wav" for number in range(1, 6)]
    records = [json.loads((tmp_path / f"out-{number}.json").read_text()) for number in range(1, 6)]
    assert [record["prompt"] for record in records] == ["slow piano", "bell", "soft drums", "a", "b"]
    assert [(record["seed"], record["samples"]) for record in records[:3]] == [(7, 3200), (9, 6400), (7, 3200)]
    # Whatever stands beside it in the file, a piece is the same.
    make("soft drums", "--seed", 7, "-o", "alone.wav")
    assert json.loads((tmp_path / "alone.json").read_text())["codes_sha256"] == records[2]["codes_sha256"]


def test_a_batch_file_may_come_from_stdin(make: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("bell\npiano\n"))
    assert make("--batch-file", "-", "--seed", 7).out == "bell-7.wav\npiano-7.wav\n"


def test_a_blank_prompt_is_allowed_and_said(make: Run, tmp_path: Path) -> None:
    ran = make("", "--seed", 1)
    assert (ran.code, ran.out) == (0, "music-1.wav\n")
    assert ran.err.startswith("note: an empty prompt leaves the model free")


BAD = [
    *((["x", "--seconds", each], 2, "seconds must be") for each in ("0", "-1", "nan", "inf", "1e9", "abc", "", "3601")),
    (["x", "--seconds", "0.00001"], 2, "less than half a sample"),
    ([], 2, "a prompt is missing"),
    (["x", "y"], 2, "unexpected extra argument"),
    (["x" * 2001], 2, "2001 characters"),
    (["\udcff"], 2, "not text in UTF-8"),
    *((["x", "--seed", each], 2, "seed") for each in ("-1", str(2**64), "1.5", "abc")),
    *((["x", "--count", each], 2, "--count") for each in ("0", "-1", "1001", "two")),
    *((["x", "--side-by-side", each], 2, "--side-by-side") for each in ("0", "-1", "257", "two")),
    (["x", "--top-k", "-1"], 2, "top_k must be"),
    *((["x", "--top-p", each], 2, "top_p must be") for each in ("0", "1.1", "nan")),
    *((["x", "--temperature", each], 2, "temperature must be") for each in ("-1", "nan", "inf", "1e-9")),
    *((["x", "--guidance", each], 2, "guidance must be") for each in ("-1", "nan")),
    (["x", "--sekonds", "3"], 2, "No such option: --sekonds"),
    (["x", "--model", "skech"], 4, "did you mean sketch"),
    (["x", "--model", "no such/model"], 4, "no model and no folder"),
    (["x", "--model", "."], 4, "no config.json"),
    (["x", "--backend", "jax"], 3, "unknown backend 'jax'"),
    (["x", "--device", "toaster"], 3, "unknown device 'toaster'"),
    (["x", "--dtype", "int3"], 3, "unknown dtype 'int3'"),
    (["x", "-o", "no/such/out.wav"], 2, "no/such does not exist"),
    (["x", "-o", "out.xyz"], 2, "does not name a format"),
    (["x", "-o", "/dev/full"], 2, "not a regular file"),
    (["--from", "nosuch.json"], 2, "nosuch.json cannot be read"),
    (["--from", "."], 2, "cannot be read"),
    (["--batch-file", "nosuch.txt"], 2, "nosuch.txt cannot be read"),
    (["--batch-file", "."], 2, "cannot be read"),
    (["x", "--batch-file", "p.txt"], 2, "leave out the prompt"),
]


@pytest.mark.parametrize(("words", "code", "message"), BAD, ids=lambda value: str(value)[:40] if value != [] else None)
def test_bad_input_is_one_line_and_writes_nothing(
    make: Run, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    ran = make(*words)
    assert message in ran.error
    assert ran.code == code
    assert listing(tmp_path) == set()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no prompt"),
        (b"\n \n", "holds no prompt"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b'bell\n{"prompt": "x", "sekonds": 3}\n', "line 2: unknown field 'sekonds'"),
        (b'{"prompt": "x"\n', "line 1: not valid JSON"),
        (b'{"prompt": 3}', "line 1: prompt must be text"),
        (b'\n\n{"prompt": "x", "seconds": -3}', "line 3: a duration cannot be negative"),
        (b'{"prompt": "x", "temperature": NaN}', "line 1: temperature"),
        (b'{"prompt": "x", "seed": "seven"}', "line 1: seed"),
        (b'{"a":' + b"[" * 100_000, "line 1: not valid JSON"),
    ],
)
def test_a_bad_line_is_named_by_its_number(make: Run, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "prompts.txt").write_bytes(content)
    ran = make("--batch-file", "prompts.txt")
    assert f"prompts.txt, {message}" in ran.error or f"prompts.txt {message}" in ran.error or message in ran.error
    assert ran.code == 2
    assert listing(tmp_path) == {"prompts.txt"}


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"RIFF\xff\x00", b'{"prompt": "x", "seconds": 1, "seed": 1, "model": 3, "codes_sha256": ""}'],
)
def test_a_file_that_is_no_record_is_refused(hemiola: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    ran = hemiola("generate", "--from", "bad.json")
    assert "bad.json" in ran.error
    assert "hemiola generate wrote" in ran.error or "name the .json beside a piece" in ran.error
    assert ran.code == 2


def test_a_record_with_bad_values_is_refused(make: Run, hemiola: Run, tmp_path: Path) -> None:
    make("bell", "--seed", 7, "-o", "first.wav")
    record = json.loads((tmp_path / "first.json").read_text())
    for change in ({"seconds": -1}, {"seed": "x"}, {"dtype": "int3"}, {"device": 7}, {"model": "nosuch"}):
        (tmp_path / "bad.json").write_text(json.dumps({**record, **change}))
        ran = hemiola("generate", "--from", "bad.json", "-o", "again.wav")
        assert ran.error
        assert "again.wav" not in listing(tmp_path)


@pytest.mark.parametrize("taken", ["out.wav", "out.json", "out-2.wav", "out-2.json"])
def test_nothing_is_replaced_without_force_and_no_work_is_done(
    make: Run, tmp_path: Path, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / taken).write_text("mine")
    words = ["bell", "-o", "out.wav", "--seed", 1, "--count", 2 if "-2" in taken else 1]
    with monkeypatch.context() as patched:
        patched.setattr(MusicGen, "from_pretrained", None)  # would be an error, were it called
        ran = make(*words)
    assert f"{taken} exists: pass --force" in ran.error
    assert (ran.code, listing(tmp_path)) == (2, {taken})
    assert (tmp_path / taken).read_text() == "mine"
    assert make(*words, "--force").code == 0
    assert (tmp_path / taken).read_bytes() != b"mine"


def test_a_file_that_appears_meanwhile_is_not_replaced(
    make: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = MusicGen.each

    def slow(*arguments: Any, **settings: Any) -> Any:
        (tmp_path / "out.wav").write_text("mine")
        return each(*arguments, **settings)

    monkeypatch.setattr(MusicGen, "each", slow)
    assert "out.wav exists" in make("bell", "-o", "out.wav").error
    assert (tmp_path / "out.wav").read_text() == "mine"
    assert listing(tmp_path) == {"out.wav"}


def write_clip(path: Path, seed: int = 1) -> Path:
    noise = np.random.default_rng(seed).normal(size=(4410, 2)) * 0.1
    soundfile.write(path, noise, 44100)
    return path


def test_a_clip_goes_on_and_its_record_makes_it_again(make: Run, hemiola: Run, tmp_path: Path, tiny: Path) -> None:
    clip = write_clip(tmp_path / "clip.wav")
    ran = make("slow piano", "--continue", "clip.wav", "--seconds", "0.25", "--seed", 7, "-o", "out.wav")
    assert (ran.code, ran.out) == (0, "out.wav\n")
    assert "8,000 samples, 0.25 s" in ran.err
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["prompt_audio"] == str(clip)
    assert record["prompt_audio_sha256"] == hashlib.sha256(clip.read_bytes()).hexdigest()
    model = MusicGen.from_pretrained(tiny, backend="torch", device="cpu")
    (result,) = model.generate([Request("slow piano", "0.25", 7, prompt_audio=clip)])
    np.testing.assert_array_equal(soundfile.read(tmp_path / "out.wav", dtype="float32")[0], result.audio.samples[0])
    # The clip may have moved along with the record.
    (tmp_path / "away").mkdir()
    for name in ("clip.wav", "out.json"):
        (tmp_path / name).rename(tmp_path / "away" / name)
    assert hemiola("generate", "--from", "away/out.json", "-o", "again.wav").code == 0
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "out.wav").read_bytes()


def test_a_clip_that_changed_is_not_taken_for_the_one_recorded(make: Run, hemiola: Run, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.wav")
    make("slow piano", "--continue", "clip.wav", "--seconds", "0.25", "-o", "out.wav")
    write_clip(tmp_path / "clip.wav", seed=2)
    ran = hemiola("generate", "--from", "out.json", "-o", "again.wav")
    assert (ran.code, ran.out) == (2, "")
    assert "clip.wav is gone or has changed since out.json was written" in ran.error
    assert hemiola("generate", "--from", "out.json", "--continue", "clip.wav", "-o", "again.wav").code == 0


def test_a_clip_needs_no_prompt_and_has_to_be_there(make: Run, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.wav")
    assert make("--continue", "clip.wav", "--seconds", "0.25", "-o", "out.wav").code == 0
    assert make("slow", "--continue", "lost.wav").error == "lost.wav does not exist"
    assert "ask for more seconds" in make("slow", "--continue", "clip.wav", "--seconds", "0.1").error
    assert list(tmp_path.glob("slow*")) == []


def test_a_tune_is_followed_and_recorded(make: Run, hemiola: Run, tmp_path: Path, family: dict[str, Path]) -> None:
    tune = write_clip(tmp_path / "tune.wav")
    ran = make("slow", "--melody", "tune.wav", "--model", family["stereo-melody"], "--seed", 7, "-o", "out.wav")
    assert (ran.code, ran.out) == (0, "out.wav\n")
    assert "the melody is that of the whole mix, whose sources are not separated" in ran.err
    assert soundfile.info(tmp_path / "out.wav").channels == 2
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["melody_sha256"] == hashlib.sha256(tune.read_bytes()).hexdigest()
    assert hemiola("generate", "--from", "out.json", "-o", "again.wav").code == 0
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "out.wav").read_bytes()
    assert "takes no melody" in make("slow", "--melody", "tune.wav", "-o", "no.wav").error
