"""The bundled model, held to what the README promises of it; lengths and tails on a random model as well."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from hemiola import MusicGen, Request
from hemiola.audio.dsp import rms
from hemiola.cli import main
from hemiola.generation import Result
from hemiola.train import evaluate as evaluation
from hemiola.weights import hub

MODEL = "sketch"
CAPTIONS = [
    "slow piano in A minor with soft drums, 80 bpm",
    "fast organ and bass without drums, 140 bpm",
    "a calm bell melody in D major",
    "bright pluck with drums, 120 bpm",
    "dark pad in E minor, 70 bpm",
]
TENTH = 3200  # samples in 100 ms


@pytest.fixture(scope="session")
def sketch() -> MusicGen:
    return MusicGen.from_pretrained(MODEL, backend="torch", device="cpu")


@pytest.fixture(scope="session", params=["sketch", "random"])
def either(request: pytest.FixtureRequest) -> MusicGen:
    if request.param == "sketch":
        return request.getfixturevalue("sketch")
    return MusicGen.from_pretrained(request.getfixturevalue("tiny"), backend="torch", device="cpu")


def requests(durations: list[str]) -> list[Request]:
    return [Request(CAPTIONS[seed % len(CAPTIONS)], each, seed=seed) for seed, each in enumerate(durations)]


def made(model: MusicGen, durations: list[str]) -> list[Result]:
    """Pieces of all durations; those of like length side by side, which is quicker and changes none of them."""
    wanted = sorted(requests(durations), key=lambda request: Fraction(str(request.seconds)))
    return [result for start in range(0, len(wanted), 20) for result in model.generate(wanted[start : start + 20])]


def require_exact_and_sounding(results: list[Result]) -> None:
    """Every length exact; the last 100 ms as loud, over all pieces, as 100 ms from the middle are."""
    tails, middles = [], []
    for result in results:
        audio, seconds = result.audio, Fraction(str(result.request.seconds))
        assert audio.length == int(seconds * 32000 + Fraction(1, 2)), seconds
        # No silence padded on, not even for the 60 ms of a delay pattern that was cut too early.
        assert np.abs(audio.samples[:, -1920:]).max() > 1e-4, seconds
        if audio.length >= 4 * TENTH:
            whole = rms(audio.samples)[0]
            middle = audio.length // 2
            tails.append(rms(audio.samples[:, -TENTH:])[0] / whole)
            middles.append(rms(audio.samples[:, middle : middle + TENTH])[0] / whole)
    assert len(tails) >= len(results) // 3
    # Music breathes, so single pieces may end softly; as a whole, ends are as loud as middles.
    assert 0.7 < np.median(tails) / np.median(middles) < 1.4
    assert np.quantile(tails, 0.1) > 0.5 * np.quantile(middles, 0.1)


def test_lengths_are_exact_and_ends_sound(either: MusicGen) -> None:
    require_exact_and_sounding(made(either, ["0.02", "0.0201", "0.4", "0.777", "1.28", "1.2999", "2"]))


@pytest.mark.slow
def test_200_random_durations_are_exact_and_end_as_loud_as_the_rest(either: MusicGen) -> None:
    draw = random.Random(2)
    # As many short ones as long ones, 0.02 to 20 s; written out to four digits, as a person would.
    durations = [f"{0.02 * 1000 ** draw.random():.4f}" for _ in range(200)]
    require_exact_and_sounding(made(either, durations))


def test_seed_7_alone_and_as_third_of_five_is_the_same(sketch: MusicGen) -> None:
    batch = [Request(caption, "1.5", seed=7 if place == 2 else place) for place, caption in enumerate(CAPTIONS)]
    (alone,) = sketch.generate([batch[2]])
    assert np.array_equal(sketch.generate(batch)[2].codes, alone.codes)
    assert len(np.unique(alone.codes)) > 8, "a model stuck on one token would prove little"


def test_the_same_seed_twice_is_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        with pytest.raises(SystemExit) as end:
            main(["generate", CAPTIONS[0], "--seconds", "1", "--seed", "7", "-o", f"{name}.wav", "--model", MODEL])
        assert not end.value.code
    assert (tmp_path / "first.wav").read_bytes() == (tmp_path / "second.wav").read_bytes()
    assert json.loads((tmp_path / "first.json").read_text())["samples"] == 32000


def test_prompts_make_a_difference(sketch: MusicGen) -> None:
    first, second = sketch.generate([Request(caption, "1", seed=7) for caption in CAPTIONS[:2]])
    assert (first.codes != second.codes).mean() > 0.5


@pytest.mark.slow
def test_captions_that_it_has_never_seen_are_followed(sketch: MusicGen) -> None:
    """Well above chance: a quarter for the tempo, a half for the drums, a tenth for the lead. The card has it all."""
    trials = evaluation.held_out(20, "8")
    requests = [Request(trial.caption, "8", seed=trial.index) for trial in trials]

    def make(some: Sequence[evaluation.Trial]) -> list[np.ndarray]:
        return [result.audio.samples for result in sketch.generate([requests[trial.index] for trial in some])]

    heard = evaluation.listen_to(trials, make, sketch.sampling_rate, batch=10)
    figures = evaluation.figures(trials, heard, heard)
    assert figures["tempo_within_8_percent"].share >= 0.85
    assert figures["drums"].share >= 0.85
    assert figures["key_and_mode"].share >= 0.5
    assert figures["instrument"].share >= 0.7


@pytest.mark.slow
def test_transformers_loads_the_folder_and_gives_the_same_greedy_tokens(sketch: MusicGen) -> None:
    folder = hub.locate(MODEL).folder
    reference, report = transformers.MusicgenForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = CAPTIONS[0]
    assert tokenizer(text)["input_ids"] == sketch.model.tokenizer.encode(text)
    wanted = caught(reference, lambda: reference.generate(**tokenizer([text], return_tensors="pt"), **GREEDY))
    (result,) = sketch.generate([Request(text, Fraction(197, 50), seed=1, temperature=0)])
    assert np.array_equal(result.codes, wanted)


GREEDY = {"do_sample": False, "guidance_scale": 3.0, "max_new_tokens": 200}


def caught(reference: transformers.MusicgenForConditionalGeneration, generate: Callable[[], object]) -> np.ndarray:
    """Codes [K, frames] on their way into transformers' codec."""
    codes = []
    decode = reference.audio_encoder.decode
    reference.audio_encoder.decode = lambda each, audio_scales: codes.append(each) or decode(each, audio_scales)
    generate()
    return codes[0][0, 0].numpy()


def test_the_bundled_model_is_small_and_says_what_it_is() -> None:
    checkpoint = hub.locate("sketch")
    assert checkpoint.bundled
    assert sum(path.stat().st_size for path in checkpoint.folder.rglob("*")) <= 20_000_000
    card = (checkpoint.folder / "README.md").read_text(encoding="utf-8").lower()
    for word in ("apache-2.0", "synthetic", "limit", "tempo", "drums"):
        assert word in card, word
