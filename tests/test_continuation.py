"""Going on from a clip: the same tokens as without the cut, any rate and length of clip, alone and in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola import Audio, MusicGen, Request
from hemiola.codec.encoded import Encoded
from hemiola.errors import AudioError, InputError
from hemiola.generation import Block
from hemiola.musicgen import windows
from hemiola.musicgen.batch import Job

HOP, RATE, ENTRIES = 640, 32000, 64


class Lossless:
    """A codec that hides a frame's codes in its first samples, so that coding what it decoded gives the same codes."""

    def encode(self, audio: np.ndarray) -> Encoded:
        padded = np.pad(audio[:, 0], ((0, 0), (0, -audio.shape[-1] % HOP)))
        codes = padded.reshape(len(audio), -1, HOP)[:, :, :4].swapaxes(1, 2) * ENTRIES
        return Encoded((codes.round().astype(np.int32),), None, audio.shape[-1])

    def decode(self, encoded: Encoded) -> np.ndarray:
        (codes,) = encoded.chunks
        frames = np.zeros((len(codes), codes.shape[2], HOP), np.float32)
        frames[:, :, :4] = codes.swapaxes(1, 2) / ENTRIES
        return frames.reshape(len(codes), 1, -1)[:, :, : encoded.length]


@pytest.fixture(scope="module", params=["torch", "mlx"])
def music(tiny: Path, request: pytest.FixtureRequest) -> MusicGen:
    return MusicGen.from_pretrained(tiny, backend=request.param, device="cpu")


@pytest.fixture
def lossless(music: MusicGen, monkeypatch: pytest.MonkeyPatch) -> MusicGen:
    monkeypatch.setattr(music.model, "codec", Lossless())
    return music


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Windows of 0.4 s: 20 frames, 12 of them new in every window but the first."""
    monkeypatch.setattr(windows, "TRAINED_SECONDS", Fraction(2, 5))
    yield


def clip(frames: int, extra: int = 0, rate: int = RATE, channels: int = 1) -> Audio:
    noise = np.random.default_rng(frames).normal(size=(channels, frames * HOP * rate // RATE + extra)) * 0.1
    return Audio(noise.astype(np.float32), rate)


def first(audio: Audio, samples: int) -> Audio:
    return Audio(audio.samples[:, :samples], audio.sample_rate)


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
@pytest.mark.parametrize("cut", [1, 3, 20, 39])
def test_the_first_part_goes_on_as_the_whole_did(lossless: MusicGen, cut: int, temperature: float) -> None:
    request = Request("slow piano", Fraction(40, 50), seed=5, temperature=temperature)
    (whole,) = lossless.generate([request])
    assert len(np.unique(whole.codes)) > 4, "a decoder stuck on one token would prove little"
    (again,) = lossless.generate([replace(request, prompt_audio=first(whole.audio, cut * HOP))])
    assert np.array_equal(again.codes, whole.codes)
    assert np.array_equal(again.audio.samples, whole.audio.samples)


@pytest.mark.usefixtures("short_windows")
@pytest.mark.parametrize("cut", [1, 8, 12, 19, 20, 21, 31, 32, 33, 54])
def test_a_piece_of_many_windows_goes_on_from_any_frame(lossless: MusicGen, cut: int) -> None:
    request = Request("slow piano", Fraction(55, 50), seed=5)
    (whole,) = lossless.generate([request])
    steps: list[tuple[int, int]] = []
    cut_off = replace(request, prompt_audio=first(whole.audio, cut * HOP))
    (again,) = lossless.generate([cut_off], progress=lambda *at: steps.append(at))
    assert np.array_equal(again.codes, whole.codes)
    assert [done for done, _ in steps] == list(range(1, steps[0][1] + 1))
    assert len({total for _, total in steps}) == 1


@pytest.mark.parametrize("extra", [0, 1, 639])
def test_what_is_left_of_a_frame_is_heard_and_written_anew(music: MusicGen, extra: int) -> None:
    heard = clip(7, extra)
    (result,) = music.generate([Request("bell", "0.5", seed=1, prompt_audio=heard)])
    assert np.array_equal(result.codes[:, :7], music.model.encode(heard.samples)[:, :7])
    # One decoding of all codes: there is no place where two sounds were joined.
    assert np.array_equal(result.audio.samples, music.model.decode(result.codes, 16000))


@pytest.mark.parametrize(("rate", "channels"), [(32000, 2), (44100, 1), (48000, 2), (8000, 1), (22050, 3)])
def test_any_rate_and_channels_from_a_file(music: MusicGen, rate: int, channels: int, tmp_path: Path) -> None:
    heard = clip(9, 5, rate, channels)
    heard.save(tmp_path / "clip.wav")
    (result,) = music.generate([Request("bell", "0.31", seed=1, prompt_audio=str(tmp_path / "clip.wav"))])
    assert result.audio.samples.shape == (1, 9920)
    mono = heard.to_channels(1).resample(RATE)
    whole = mono.length // HOP
    assert np.array_equal(result.codes[:, :whole], music.model.encode(mono.samples)[:, :whole])


@settings(max_examples=15, deadline=None)
@given(kept=st.integers(HOP, 9000), added=st.integers(1, 9000))
def test_clip_and_new_music_are_as_long_as_asked(music: MusicGen, kept: int, added: int) -> None:
    request = Request("slow", Fraction(kept + added, RATE), seed=1, prompt_audio=clip(0, kept))
    assert music.generate([request])[0].audio.length == kept + added


@pytest.mark.usefixtures("short_windows")
def test_clips_of_all_lengths_in_a_batch_equal_each_alone(music: MusicGen) -> None:
    requests = [
        Request("slow piano", Fraction(45, 50), seed=1, prompt_audio=clip(30)),
        Request("bell", Fraction(33, 50), seed=2),
        Request(None, Fraction(52, 50), seed=3, prompt_audio=clip(4, 100), window_stride="0.1"),
        Request("drums", Fraction(24, 50), seed=4, prompt_audio=clip(23), negative="piano", temperature=0),
        Request("organ", Fraction(41, 50), seed=4, window_stride=Fraction(2, 5), guidance=1),
    ]
    steps: list[tuple[int, int]] = []
    together = music.generate(requests, progress=lambda *at: steps.append(at))
    done, totals = zip(*steps)
    taken = 0
    for request, result in zip(requests, together):
        (alone,) = music.generate([request], progress=lambda *at: steps.append(at))
        assert np.array_equal(alone.codes, result.codes)
        taken += steps[-1][0]
        assert result.audio.length == request.samples(music.timebase)
    # Each step of each piece counts, whatever is beside it.
    assert list(done) == sorted(done) and done[-1] == taken and set(totals) == {taken}
    blocks: list[Block] = list(music.stream(requests, block_frames=7))
    assert [block.start for block in blocks] == [
        sum(len(b.codes[2][0]) for b in blocks[:n]) for n in range(len(blocks))
    ]
    for index, result in enumerate(together):
        assert np.array_equal(np.concatenate([block.codes[index] for block in blocks], axis=1), result.codes)


@pytest.mark.usefixtures("short_windows")
def test_a_stride_is_how_much_a_window_adds(music: MusicGen) -> None:
    request = Request("slow piano", Fraction(40, 50), seed=5, window_stride="0.1")
    (result,) = music.generate([request])
    # The second window by hand: frames 5 to 25, of which the first window wrote 15.
    job = Job(text="slow piano", frames=20, seed=5, prompt=result.codes[:, 5:20], start=5)
    assert np.array_equal(next(music.model.tokens([job]))[0], result.codes[:, 5:25])
    assert not np.array_equal(result.codes, music.generate([replace(request, window_stride=None)])[0].codes)


@pytest.mark.parametrize("stride", ["0.001", 31, "30.02"])
def test_a_stride_that_is_no_window_is_refused(music: MusicGen, stride: object) -> None:
    with pytest.raises(InputError, match=r"window_stride must be from 0.02 to 30 s with this model"):
        music.generate([Request("slow", 1, window_stride=stride)])  # type: ignore[arg-type]


def test_clips_that_cannot_be_are_refused(music: MusicGen, tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("la la la")
    with pytest.raises(AudioError, match="not audio"):
        Request("slow", prompt_audio=tmp_path / "notes.wav")
    with pytest.raises(InputError, match="prompt_audio must be a sound file"):
        Request("slow", prompt_audio=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"the clip lasts 1\.000 s, and the piece holds it: ask for more"):
        music.generate([Request("slow", 1, prompt_audio=clip(50))])
    with pytest.raises(InputError, match="the clip holds 639 samples, less than a frame"):
        music.generate([Request("slow", 1, prompt_audio=clip(0, 639))])
    with pytest.raises(InputError, match="in no file"):
        Request("slow", 1, prompt_audio=clip(2)).to_dict()


@pytest.mark.parametrize(
    ("music", "seconds"),
    [
        *(("torch", seconds) for seconds in ("8.2", "30.06", "36.08")),
        ("mlx", "8.2"),
        *(pytest.param("mlx", seconds, marks=pytest.mark.slow) for seconds in ("30.06", "36.08")),
    ],
    indirect=["music"],
)
def test_long_pieces_are_exact(music: MusicGen, seconds: str) -> None:
    steps: list[tuple[int, int]] = []
    (result,) = music.generate([Request("slow", seconds, seed=1)], progress=lambda *at: steps.append(at))
    assert result.audio.length == Fraction(seconds) * RATE
    assert steps[-1][0] == steps[-1][1] == len(steps)
    assert np.abs(result.audio.samples[:, -HOP:]).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("music", ["torch"], indirect=True)
def test_ten_minutes_are_exact_and_no_window_grows(music: MusicGen, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    tokens = music.model.tokens
    monkeypatch.setattr(music.model, "tokens", lambda jobs, **how: asked.append(jobs[0].frames) or tokens(jobs, **how))
    steps: list[tuple[int, int]] = []
    (result,) = music.generate([Request("slow", 600, seed=1)], progress=lambda *at: steps.append(at))
    assert result.audio.length == 600 * RATE
    assert steps[-1][0] == steps[-1][1] == len(steps)
    # What a window keeps is freed with it: the caches are never longer than 30 s.
    assert max(asked) == 1500
