"""Generation from Python: exact lengths, seeds, batches, long pieces, streams, and requests that are refused."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hemiola
from hemiola import MusicGen, Request
from hemiola.audio.dsp import rms
from hemiola.errors import BackendError, HemiolaError, InputError, WeightsError
from hemiola.generation import Block, Result
from hemiola.musicgen import windows


@pytest.fixture(scope="module")
def music(tiny: Path) -> MusicGen:
    return MusicGen.from_pretrained(tiny, backend="torch", device="cpu")


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Windows of 0.4 s: 20 frames, 12 of them new in every window but the first."""
    monkeypatch.setattr(windows, "TRAINED_SECONDS", Fraction(2, 5))
    yield


def made(music: MusicGen, *requests: Request) -> list[Result]:
    return music.generate(requests)


def joined(blocks: list[Block], index: int = 0) -> np.ndarray:
    return np.concatenate([block.codes[index] for block in blocks], axis=1)


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(1, 40_000))
def test_a_piece_is_as_long_as_asked_to_the_sample(music: MusicGen, samples: int) -> None:
    (result,) = made(music, Request("slow piano", Fraction(samples, 32000), seed=1))
    assert result.audio.samples.shape == (1, samples)
    assert result.codes.shape == (4, -(-samples // 640))


@pytest.mark.parametrize("seconds", [0.7, "0.7", Decimal("0.70"), Fraction(7, 10), "7/10"])
def test_a_duration_means_what_it_prints(music: MusicGen, seconds: object) -> None:
    assert made(music, Request("", seconds, seed=1))[0].audio.length == 22400  # type: ignore[arg-type]


def test_the_end_is_as_loud_as_the_rest(music: MusicGen) -> None:
    for number, seconds in enumerate(("0.31", "0.999", "1.234567")):
        samples = made(music, Request("bright bell", seconds, seed=number))[0].audio.samples
        assert 0.5 < rms(samples[:, -3200:])[0] / rms(samples)[0] < 2


def test_the_same_seed_is_the_same_music_alone_and_as_third_of_five(music: MusicGen) -> None:
    request = Request("slow piano", 1, seed=7)
    others = [
        Request("fast organ without drums", "2.02", seed=7),
        Request("", "0.1", seed=7, temperature=0),
        Request("a bright bell melody", "0.6", seed=8, guidance=1),
        Request("soft drums", "1.5", seed=9, negative="piano"),
    ]
    (alone,) = made(music, request)
    batch = made(music, *others[:2], request, *others[2:])
    assert np.array_equal(batch[2].codes, alone.codes)
    np.testing.assert_allclose(batch[2].audio.samples, alone.audio.samples, atol=1e-6)
    assert [result.audio.length for result in batch] == [64640, 3200, 32000, 19200, 48000]
    assert not np.array_equal(made(music, replace(request, seed=8))[0].codes, alone.codes)
    assert not np.array_equal(made(music, replace(request, variation=1))[0].codes, alone.codes)


def test_a_drawn_seed_is_told_and_makes_the_same_again(music: MusicGen) -> None:
    first, second = made(music, Request("slow", "0.2"), Request("slow", "0.2"))
    assert first.request.seed != second.request.seed
    assert np.array_equal(made(music, first.request)[0].codes, first.codes)


def test_a_blank_prompt_is_no_prompt(music: MusicGen) -> None:
    results = made(music, *(Request(prompt, "0.4", seed=3) for prompt in (None, "", "  \n", "piano")))
    assert all(np.array_equal(results[0].codes, result.codes) for result in results[1:3])
    assert not np.array_equal(results[0].codes, results[3].codes)


@pytest.mark.usefixtures("short_windows")
@pytest.mark.parametrize("frames", [19, 20, 21, 32, 33, 55])
def test_a_long_piece_is_written_window_by_window(music: MusicGen, frames: int) -> None:
    steps: list[tuple[int, int]] = []
    request = Request("slow piano", Fraction(frames, 50), seed=5)
    (result,) = music.generate([request], progress=lambda *at: steps.append(at))
    assert result.audio.length == frames * 640
    assert ((result.codes >= 0) & (result.codes < 64)).all()
    # Every window takes its new frames and three more steps.
    rounds = 1 + max(0, -(-(frames - 20) // 12))
    assert steps == [(step, frames + 3 * rounds) for step in range(1, frames + 3 * rounds + 1)]


@pytest.mark.usefixtures("short_windows")
def test_a_later_window_goes_on_from_the_end_of_the_one_before(music: MusicGen) -> None:
    request = Request("slow piano", Fraction(40, 50), seed=5)
    (result,) = made(music, request)
    # The second window by hand: frames 12 to 32, of which the first window wrote 8.
    job = hemiola.generation.Job(text="slow piano", frames=20, seed=5, prompt=result.codes[:, 12:20], start=12)
    (codes,) = music.model.tokens([job])
    assert np.array_equal(codes[0], result.codes[:, 12:32])


@pytest.mark.usefixtures("short_windows")
def test_long_pieces_in_a_batch_equal_each_alone(music: MusicGen) -> None:
    requests = [Request("slow", Fraction(frames, 50), seed=frames) for frames in (45, 7, 33, 20)]
    for request, result in zip(requests, made(music, *requests)):
        assert np.array_equal(made(music, request)[0].codes, result.codes)


@pytest.mark.usefixtures("short_windows")
@pytest.mark.parametrize("block_frames", [1, 7, 20, None])
def test_blocks_follow_one_another_and_join_to_the_whole(music: MusicGen, block_frames: int | None) -> None:
    requests = [Request("slow", Fraction(45, 50), seed=1), Request("bell", Fraction(23, 50), seed=2)]
    blocks = list(music.stream(requests, block_frames=block_frames))
    starts = np.cumsum([0, *(block.codes[0].shape[1] for block in blocks)])
    assert [block.start for block in blocks] == list(starts[:-1])
    for index, result in enumerate(made(music, *requests)):
        assert np.array_equal(joined(blocks, index), result.codes)


def test_blocks_of_audio_join_to_the_audio_of_generate(music: MusicGen) -> None:
    requests = [Request("slow", "0.47", seed=1), Request("bell", "0.2301", seed=2)]
    for size in (1, 6, None):
        blocks = list(music.stream(requests, block_frames=size))
        for index, result in enumerate(made(music, *requests)):
            audio = np.concatenate([block.audio[index] for block in blocks], axis=1)
            assert audio.shape == result.audio.samples.shape
            np.testing.assert_allclose(audio, result.audio.samples, atol=1e-5 * np.abs(audio).max())


def test_the_first_samples_are_there_after_seven_steps(music: MusicGen) -> None:
    taken: list[int] = []
    request = Request("slow", 1, seed=1)
    for block in music.stream([request], block_frames=1, progress=lambda done, _: taken.append(done)):
        if block.audio[0].shape[1]:
            break
    # Four frames and three steps of delay; the codec's look-ahead of 2402 samples leaves 158 of their 2560.
    assert len(taken) == 7
    assert block.audio[0].shape == (1, 158)


def test_stereo_streams_too(music: MusicGen) -> None:
    model = music.model
    codes = np.random.default_rng(0).integers(0, 64, (2 * model.codebooks, 9)).astype(np.int32)
    with_two = copy.copy(model)
    decoder = replace(model.config.decoder, audio_channels=2, num_codebooks=2 * model.codebooks)
    with_two.config = replace(model.config, decoder=decoder)
    whole = with_two.decode(codes, 5700)
    sound = with_two.sound(5700)
    blocks = [sound(codes[:, start : start + 2]) for start in range(0, 9, 2)]
    assert whole.shape == (2, 5700)
    assert not np.array_equal(whole[0], whole[1])
    np.testing.assert_allclose(np.concatenate(blocks, axis=1), whole, atol=1e-5 * np.abs(whole).max())


@pytest.mark.usefixtures("short_windows")
def test_stop_ends_the_work_and_keeps_what_is_whole(music: MusicGen) -> None:
    taken: list[int] = []
    requests = [Request("slow", Fraction(45, 50), seed=1), Request("bell", Fraction(9, 50), seed=2)]
    results = music.generate(requests, progress=lambda done, _: taken.append(done), stop=lambda: len(taken) >= 30)
    assert len(taken) == 30
    assert [result.request for result in results] == [music.settled(requests[1])]
    assert music.generate(requests, stop=lambda: True) == []


def test_the_function_is_the_class_in_short(music: MusicGen, tiny: Path) -> None:
    audio = hemiola.generate("slow piano", seconds="0.3", seed=4, model=tiny, device="cpu", backend="torch", top_k=9)
    (result,) = made(music, Request("slow piano", "0.3", seed=4, top_k=9))
    assert isinstance(audio, hemiola.Audio)
    assert np.array_equal(audio.samples, result.audio.samples)
    assert audio.seconds == Fraction(3, 10)
    with pytest.raises(BackendError, match="cannot quantise to 3 bits"):
        hemiola.generate("slow piano", seconds="0.3", model=tiny, device="cpu", backend="torch", quantize=3)


def test_the_clock_is_the_codecs(music: MusicGen) -> None:
    assert music.timebase == hemiola.Timebase(32000, 640)
    assert (music.sampling_rate, music.channels) == (32000, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *(({"seconds": seconds}, "seconds must be above 0 and at most 3600") for seconds in (0, "0.0", 3600.001, 1e9)),
        *(
            ({"seconds": seconds}, "seconds must be")
            for seconds in (-1, "nan", float("inf"), "abc", "", None, True, [3])
        ),
        *(({"seed": seed}, "seed must be a whole number") for seed in (-1, 2**64, 1.5, "7", True)),
        *(({"variation": each}, "variation must be a whole number") for each in (-1, None, 0.5)),
        *(({"top_k": each}, "top_k must be a whole number") for each in (-1, 2.5, "9")),
        *(({"top_p": each}, "top_p must be") for each in (0, 1.01, -1, float("nan"), "off")),
        *(({"temperature": each}, "temperature must be") for each in (-1, float("nan"), 1e-9, 1e9, "hot")),
        *(({"guidance": each}, "guidance must be") for each in (-0.1, float("inf"), 10**400, "3")),
        *(({"prompt": each}, "prompt") for each in (3, b"piano", "x" * 2001, "\udcff")),
        ({"negative": 0}, "negative must be text"),
    ],
)
def test_a_request_that_cannot_be_is_refused_when_it_is_made(fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Request(**{"prompt": "slow", **fields})
    assert "\n" not in str(caught.value)


def test_what_a_request_leaves_open_is_as_the_checkpoint_recommends(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    path.write_text(json.dumps({"guidance_scale": 2, "top_k": 5, "top_p": None, "temperature": 0.5}))
    model = MusicGen.from_pretrained(tmp_path / "model", backend="torch", device="cpu")
    asked = {"guidance": 2.0, "top_k": 5, "top_p": None, "temperature": 0.5}
    first, second = model.generate([Request("slow", "0.3", seed=4), Request("slow", "0.3", seed=4, top_k=9)])
    (spelled,) = model.generate([Request("slow", "0.3", seed=4, **asked)])
    assert first.request.to_dict() == spelled.request.to_dict()
    assert np.array_equal(first.codes, spelled.codes)
    assert (second.request.top_k, second.request.guidance) == (9, 2)
    # Without the file, audiocraft's own.
    path.unlink()
    usual = MusicGen.from_pretrained(tmp_path / "model", backend="torch", device="cpu").settled(Request("slow"))
    assert (usual.guidance, usual.top_k, usual.top_p, usual.temperature) == (3, 250, None, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", each) for each in (-1, 1e-9, 1e9, True, "warm", float("nan"))),
        *(("top_k", each) for each in (-1, 2.5, True, "many")),
        *(("guidance_scale", each) for each in (-1, float("inf"), True, [3])),
        *(("top_p", each) for each in (0, 2, False, "most")),
    ],
)
def test_a_recommendation_that_cannot_be_is_told_by_its_file(
    name: str, value: object, tiny: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({name: value}))
    ours = name.removesuffix("_scale")
    with pytest.raises(WeightsError, match=rf"generation_config\.json cannot be used: {ours} must be ") as caught:
        MusicGen.from_pretrained(tmp_path / "model", backend="torch", device="cpu")
    assert "\n" not in str(caught.value)


def test_requests_that_make_no_sample_are_refused(music: MusicGen) -> None:
    with pytest.raises(InputError, match="less than half a sample at 32000 Hz"):
        made(music, Request("slow", "0.00001"))
    with pytest.raises(InputError, match="at least one request"):
        made(music)


@given(
    seconds=st.one_of(
        st.floats(0.01, 3600), st.fractions("1/100", 3600), st.decimals("0.01", 3600), st.integers(1, 3600)
    ),
    seed=st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    prompt=st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=50)),
)
def test_json_holds_a_request_whole(seconds: object, seed: int | None, prompt: str | None) -> None:
    request = Request(prompt, seconds, seed, top_p=0.5)  # type: ignore[arg-type]
    again = Request(**json.loads(json.dumps(request.to_dict())))
    assert again.to_dict() == request.to_dict()
    assert again.samples(hemiola.Timebase(32000, 640)) == request.samples(hemiola.Timebase(32000, 640))


def test_numbers_from_numpy_are_numbers() -> None:
    request = Request("slow", np.float64(0.5), np.int64(3), top_k=np.int32(9), guidance=np.float32(2))  # type: ignore[arg-type]
    assert json.loads(json.dumps(request.to_dict())) == Request("slow", 0.5, 3, top_k=9, guidance=2.0).to_dict()


def test_an_unknown_model_is_one_clear_error() -> None:
    with pytest.raises(HemiolaError, match="did you mean sketch"):
        MusicGen.from_pretrained("skech")
