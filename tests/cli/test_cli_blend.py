"""`hemiola blend`: passages as long as they must be, told in full, and what is wrong in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import hemiola as package

RATE, HOP, CLIP, OUTPUT = 4000, 80, 240, 32
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a blend whose selector has learned something, its codec, and sounds to blend."""
    import torch

    from hemiola.blend.config import BlendConfig
    from hemiola.blend.network_torch import BlendNetwork
    from hemiola.blend.network_torch import save as save_blend
    from hemiola.codec.config import EncodecConfig
    from hemiola.codec.encodec_torch import Encodec, save
    from hemiola.codec.fingerprint_torch import fingerprint
    from hemiola.train.codec import initialise

    folder = tmp_path_factory.mktemp("blend")
    clock = {"sampling_rate": RATE, "upsampling_ratios": (8, 5, 2), "target_bandwidths": (0.15,), "codebook_size": 8}
    names = {}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for name, width in (("codec", 4), ("wide", 6), ("other", 4)):
            codec = Encodec(EncodecConfig(**clock, hidden_size=width, num_filters=2, num_lstm_layers=1))
            initialise(codec)
            save(codec, folder / name)
            names[name] = fingerprint(codec)
        sizes = {"latent_dim": 4, "clip_frames": CLIP, "output_frames": OUTPUT, "embedding_dim": 6, "size": "tiny"}
        network = BlendNetwork(BlendConfig(codec=str(folder / "codec"), codec_weights=names["codec"], **sizes))
        torch.nn.init.constant_(network.selector.gain, 0.2)
        save_blend(network, folder / "model")
    rng = np.random.default_rng(0)
    sounds = {
        "input": (RATE, 1, 5.0),
        "target": (RATE, 1, 6.0),
        "stereo": (44100, 2, 4.8),
        "short": (RATE, 1, 4.79),
        "exact": (RATE, 1, 4.8),
    }
    for name, (rate, channels, seconds) in sounds.items():
        samples = 0.1 * rng.standard_normal((round(rate * seconds), channels))
        soundfile.write(folder / f"{name}.wav", samples, rate, subtype="FLOAT")
    soundfile.write(folder / "silence.wav", np.zeros(5 * RATE), RATE)
    broken = np.zeros(5 * RATE, np.float32)
    broken[77] = np.nan
    soundfile.write(folder / "nan.wav", broken, RATE, subtype="FLOAT")
    return folder


@pytest.fixture
def blend(hemiola: Run, places: Path) -> Run:
    """Blend two of the sounds by name."""

    def run(input: str = "input", target: str = "target", *words: object, model: str = "model") -> Any:
        sounds = (places / f"{name}.wav" for name in (input, target))
        return hemiola("blend", *sounds, "--checkpoint", places / model, "--device", "cpu", *words)

    return run


def test_three_passages_and_what_they_were_made_from(blend: Run, places: Path, tmp_path: Path) -> None:
    ran = blend("input", "target", "-o", "out", "--target-start", "0.5")
    assert ran.code == 0, ran.err
    names = [f"blend-{number}.wav" for number in (1, 2, 3)]
    assert ran.out.splitlines() == [f"out/{name}" for name in [*names, "blend.json"]]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "blend.json"}
    for name in names:
        info = soundfile.info(tmp_path / "out" / name)
        assert (info.frames, info.samplerate, info.channels) == (OUTPUT * HOP, RATE, 1)
    told = json.loads((tmp_path / "out" / "blend.json").read_text())
    assert told["input"] == str(places / "input.wav")
    assert (told["seed"], told["target_start"]) == (None, "0.5")
    assert (told["sample_rate"], told["samples"]) == (RATE, OUTPUT * HOP)
    assert (told["checkpoint"], told["codec"]) == (str(places / "model"), str(places / "codec"))
    assert set(told["tonality"]) == {"input", "target"}
    assert all(0 < value < 1 for value in told["tonality"].values())
    assert told["versions"] == {"hemiola": package.__version__, "torch": version("torch")}
    assert [row["file"] for row in told["passages"]] == names
    for row in told["passages"]:
        for window in row["windows"].values():
            assert 0 <= window["start_seconds"] < window["end_seconds"] <= CLIP * HOP / RATE + 1e-6
            # 31 steps of a frame at that ratio, and the last frame.
            frames = 31 * window["ratio"] + 1
            length = window["end_seconds"] - window["start_seconds"]
            assert length == pytest.approx(frames * HOP / RATE, abs=1e-6)
            for end in ("start", "end"):
                assert window[f"{end}_samples"] == pytest.approx(window[f"{end}_seconds"] * RATE, abs=0.51)
        scores = row["scores"]
        assert -1 <= scores["copy_input"] <= 1 and -1 <= scores["copy_target"] <= 1
        assert scores["copies"] in ("", "input", "target")
        # The plain mix of what has learned nothing else.
        assert scores["input_rhythm"] == pytest.approx(1 / 6)
    assert len({row["windows"]["input"]["start_seconds"] for row in told["passages"]}) == 3
    shown = told["passages"][0]["windows"]["input"]
    assert f"1: input from {shown['start_seconds']:.2f} s, x{shown['ratio']:.2f}; target from" in ran.err


def test_a_passage_is_the_decoded_mix_of_the_windows_that_are_told(blend: Run, places: Path, tmp_path: Path) -> None:
    """By hand, of what has learned nothing: latents at the places that blend.json tells, averaged and decoded."""
    import torch

    from hemiola.codec.model import EncodecModel

    assert blend("input", "exact", "--input-start", "0.1").code == 0
    codec = EncodecModel.from_pretrained(str(places / "codec"), backend="torch", device="cpu")
    windows = json.loads((tmp_path / "blend" / "blend.json").read_text())["passages"][1]["windows"]
    read = []
    for name, path, first in (("input", "input", 400), ("target", "exact", 0)):
        samples = soundfile.read(places / f"{path}.wav", dtype="float32")[0][first : first + CLIP * HOP]
        latents = codec.latents(samples[None, None])[0]
        window = windows[name]
        frames = window["start_seconds"] * RATE / HOP + window["ratio"] * np.arange(OUTPUT)
        read.append(np.stack([np.interp(frames, np.arange(CLIP), row) for row in latents]))
    with torch.no_grad():
        expected = codec.network.synthesize(torch.from_numpy(sum(read) / 2)[None].float())[0, 0].numpy()
    found = soundfile.read(tmp_path / "blend" / "blend-2.wav", dtype="float32")[0]
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_the_best_is_always_the_same_and_a_seed_draws(blend: Run, tmp_path: Path) -> None:
    def made(folder: str, *words: object) -> bytes:
        assert blend("input", "target", "-o", folder, *words).code == 0
        return b"".join((tmp_path / folder / f"blend-{number}.wav").read_bytes() for number in (1, 2, 3))

    best, again = made("one"), made("two")
    first, other, same = made("s1", "--seed", 1), made("s2", "--seed", 2), made("s3", "--seed", 1)
    assert best == again and first == same
    assert len({best, first, other}) == 3
    assert json.loads((tmp_path / "s1" / "blend.json").read_text())["seed"] == 1


def test_any_rate_and_any_channels(blend: Run, tmp_path: Path) -> None:
    """4.8 s of 44.1 kHz stereo are exactly as much as is heard."""
    assert blend("stereo", "stereo", "-o", "out").code == 0
    assert soundfile.info(tmp_path / "out" / "blend-3.wav").frames == OUTPUT * HOP


def test_silence_is_blended(blend: Run, tmp_path: Path) -> None:
    assert blend("silence", "silence", "-o", "out").code == 0
    for number in (1, 2, 3):
        assert np.isfinite(soundfile.read(tmp_path / "out" / f"blend-{number}.wav")[0]).all()
    (first, *_) = json.loads((tmp_path / "out" / "blend.json").read_text())["passages"]
    assert np.isfinite([value for value in first["scores"].values() if value != first["scores"]["copies"]]).all()


def test_pictures(blend: Run, tmp_path: Path) -> None:
    ran = blend("input", "target", "--pictures")
    assert ran.code == 0
    drawn = [tmp_path / "blend" / f"blend-{number}.png" for number in (1, 2, 3)]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    (tmp_path / "blend" / "blend.json").unlink()
    for number in (1, 2, 3):
        (tmp_path / "blend" / f"blend-{number}.wav").unlink()
    refused = blend("input", "target", "--pictures")
    assert "blend-1.png exists: pass --force" in refused.error


def test_what_exists_is_kept_unless_it_is_forced(blend: Run, tmp_path: Path) -> None:
    assert blend().code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "blend").iterdir()}
    refused = blend("target", "input")
    assert (refused.code, "exists: pass --force" in refused.error) == (2, True)
    (tmp_path / "blend" / "blend-1.wav").unlink()
    # One that is in the way is enough, and nothing is written before it is seen.
    assert "blend-2.wav exists" in blend("target", "input").error
    assert not (tmp_path / "blend" / "blend-1.wav").exists()
    assert blend("exact", "stereo", "--force").code == 0
    assert all(path.read_bytes() != content for path, content in before.items())


@pytest.mark.parametrize(
    ("sounds", "words", "said"),
    [
        (("short", "target"), (), "the input ({short}) is 4.79 s long, a blend takes 4.8 s of it: take a longer one"),
        (("input", "short"), (), "the target ({short}) is 4.79 s long, a blend takes 4.8 s of it"),
        (("input", "target"), ("--input-start", "0.3"), "is 4.70 s long from 0.3 s on, a blend takes 4.8 s"),
        (("input", "target"), ("--target-start", "60"), "the target ({target}) is 0.00 s long from 60 s on"),
        (("input", "target"), ("--input-start", "-1"), "a duration cannot be negative"),
        (("input", "target"), ("--target-start", "soon"), "not a duration in seconds: 'soon'"),
        (("nan", "target"), (), "not finite"),
        (("nosuch", "target"), (), "nosuch.wav"),
    ],
)
def test_recordings_that_cannot_be_blended(
    blend: Run, places: Path, tmp_path: Path, sounds: tuple[str, str], words: tuple[str, ...], said: str
) -> None:
    ran = blend(*sounds, *words)
    assert ran.code == 2
    assert said.format(short=places / "short.wav", target=places / "target.wav") in ran.error
    assert not list(tmp_path.iterdir())


def test_4_8_seconds_are_enough_to_the_sample(blend: Run) -> None:
    assert blend("exact", "exact").code == 0
    assert "is 4.79 s long from 0.00025 s on" in blend("exact", "exact", "--input-start", "0.00025", "--force").error


@pytest.mark.parametrize(
    ("model", "words", "said"),
    [
        ("nosuch", (), "no such folder with a blend"),
        ("codec", (), "of a 'encodec' model, not of a blend: choose another checkpoint"),
        ("model", ("--codec", "wide"), "does not fit this blend: it was trained on"),
        ("model", ("--codec", "other"), "does not fit this blend: it was trained on"),
        ("model", ("--codec", "nosuch-codec"), "nosuch-codec"),
    ],
)
def test_checkpoints_that_cannot_be_used(
    blend: Run, places: Path, tmp_path: Path, model: str, words: tuple[str, ...], said: str
) -> None:
    words = tuple(str(places / word) if word in ("wide", "other", "nosuch-codec") else word for word in words)
    ran = blend("input", "target", *words, model=model)
    assert ran.code == 4, ran.err
    assert said in ran.error
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_lacks_a_tensor_is_refused(hemiola: Run, places: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(places / "model" / "model.safetensors")
    del tensors["selector.gain"]
    (tmp_path / "half").mkdir()
    save_file(tensors, tmp_path / "half" / "model.safetensors")
    (tmp_path / "half" / "config.json").write_bytes((places / "model" / "config.json").read_bytes())
    ran = hemiola("blend", places / "input.wav", places / "target.wav", "--checkpoint", "half", "--device", "cpu")
    assert ran.code == 4
    assert "selector.gain" in ran.err


def test_the_codec_that_was_used_is_told(blend: Run, places: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").symlink_to(places / "codec")
    assert blend("input", "target", "--codec", "moved").code == 0
    assert json.loads((tmp_path / "blend" / "blend.json").read_text())["codec"] == "moved"
