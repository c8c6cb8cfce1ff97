"""The whole family: mono, stereo, melody and both, through one Request; exact lengths, and each as if it were alone."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hemiola import Audio, MusicGen, Request, Timebase
from hemiola.errors import InputError
from hemiola.musicgen import windows
from hemiola.musicgen.batch import Job

KINDS = ("mono", "stereo", "melody", "stereo-melody")
PROMPTS = ("slow piano", "a bright bell melody", None, "fast organ without drums, 140 bpm", "")
RATES = (8000, 16000, 22050, 32000, 44100, 48000)


@pytest.fixture(scope="module")
def models(family: dict[str, Path]) -> dict[tuple[str, str], MusicGen]:
    return {
        (kind, backend): MusicGen.from_pretrained(family[kind], backend=backend, device="cpu")
        for kind in KINDS
        for backend in ("torch", "mlx")
    }


def sound(generator: np.random.Generator, seconds: float) -> Audio:
    rate, channels = int(generator.choice(RATES)), int(generator.integers(1, 3))
    return Audio((generator.normal(size=(channels, max(1, int(seconds * rate)))) * 0.1).astype(np.float32), rate)


def drawn(generator: np.random.Generator, model: MusicGen, longest: float) -> Request:
    """A request for a model; lengths are as often below a second as above it, and seldom whole."""
    seconds = round(float(np.exp(generator.uniform(np.log(0.02), np.log(longest)))), int(generator.integers(2, 7)))
    request = Request(
        PROMPTS[generator.integers(len(PROMPTS))],
        seconds,
        int(generator.integers(2**63)),
        temperature=float(generator.choice([0, 1, 1.3])),
        guidance=float(generator.choice([1, 3])),
        negative=PROMPTS[generator.integers(len(PROMPTS))] if generator.random() < 0.2 else None,
        window_stride=round(float(generator.uniform(5, 30)), 2) if generator.random() < 0.2 else None,
    )
    if generator.random() < 0.4 and seconds > 0.1:
        request = replace(request, prompt_audio=sound(generator, float(generator.uniform(0.06, seconds * 0.99))))
    if model.model.config.decoder.melody is not None and generator.random() < 0.6:
        request = replace(request, melody=sound(generator, float(generator.uniform(0.01, 40))))
    return request


def check(models: dict[tuple[str, str], MusicGen], backend: str, wanted: int, longest: float) -> None:
    """Make `wanted` requests in groups of one to eight, and count every sample."""
    generator = np.random.default_rng(wanted)
    for kind, count in zip(KINDS, generator.multinomial(wanted, [1 / len(KINDS)] * len(KINDS))):
        model = models[kind, backend]
        # Short and long ones side by side up to 10 s; above, those of like length, which takes half of the time.
        requests = sorted(
            (drawn(generator, model, longest) for _ in range(count)), key=lambda each: max(10.0, float(each.seconds))
        )
        while requests:
            size = int(generator.integers(1, 9))
            group, requests = requests[:size], requests[size:]
            for request, result in zip(group, model.generate(group), strict=True):
                # By hand: the nearest whole number of samples to the number as it prints.
                samples = int(Fraction(str(request.seconds)) * model.sampling_rate + Fraction(1, 2))
                assert result.audio.samples.shape == (model.channels, samples), request
                assert np.isfinite(result.audio.samples).all()
                assert ((result.codes >= 0) & (result.codes < 16)).all()
                rate = int(generator.choice(RATES))
                again = Timebase(rate, 1).samples(Fraction(samples, model.sampling_rate))
                assert result.audio.resample(rate).length == max(1, again)


@pytest.mark.slow
def test_300_random_requests_are_exact(models: dict[tuple[str, str], MusicGen]) -> None:
    check(models, "torch", 300, 95)


def test_random_requests_are_exact_on_mlx_too(models: dict[tuple[str, str], MusicGen]) -> None:
    check(models, "mlx", 24, 1.5)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_alone_is_as_in_a_batch(models: dict[tuple[str, str], MusicGen], kind: str, backend: str) -> None:
    model = models[kind, backend]
    tune = sound(np.random.default_rng(1), 3) if "melody" in kind else None
    clip = sound(np.random.default_rng(2), 0.5)
    requests = [
        Request("slow piano", "0.9", 1, melody=tune),
        Request(None, "0.31", 2, top_k=3),
        Request("fast organ", "1.2", 3, prompt_audio=clip, melody=tune, temperature=0),
        Request("drums", "0.8", 4, prompt_audio=clip, negative="a bright bell melody", guidance=5),
        *(Request("slow bell", "0.5", 5, variation=number, top_p=0.9) for number in range(2)),
        Request("", "0.4", 6, melody=tune, negative="drums"),
    ]
    together = model.generate(requests)
    for request, result in zip(requests, together):
        (alone,) = model.generate([request])
        assert np.array_equal(alone.codes, result.codes)
        np.testing.assert_allclose(alone.audio.samples, result.audio.samples, atol=1e-6)
    assert not np.array_equal(together[4].codes, together[5].codes)


def test_a_tune_changes_the_music_and_repeats(models: dict[tuple[str, str], MusicGen]) -> None:
    model = models["melody", "torch"]
    time = np.arange(64000) / 32000
    tones = [np.sin(2 * np.pi * hz * time).astype(np.float32) for hz in (261.6, 440.0)]
    tune = Audio(np.concatenate(tones), 32000)
    request = Request("slow piano", 1, 1)
    led = model.generate([replace(request, melody=tune)])[0]
    assert not np.array_equal(led.codes, model.generate([request])[0].codes)
    rows = model.model.melody(tune.samples).argmax(1)
    # C then A, for two seconds or 15 rows each and again from the start, whatever the window sees at the seams.
    assert rows.shape == (235,)
    assert (set(rows[2:14]), set(rows[18:30]), set(rows[34:46])) == ({0}, {9}, {0})
    # A window that begins three seconds later hears the second half of A, then C.
    later = model.model.melody(tune.samples, 96000).argmax(1)
    assert (set(later[2:6]), set(later[10:20])) == ({9}, {0})


def test_a_tune_goes_along_with_the_windows(
    models: dict[tuple[str, str], MusicGen], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Windows of 0.4 s: 20 frames, 12 of them new in every window but the first.
    monkeypatch.setattr(windows, "TRAINED_SECONDS", Fraction(2, 5))
    model = models["melody", "torch"]
    tune = sound(np.random.default_rng(3), 3).to_channels(1).resample(32000)
    (result,) = model.generate([Request("slow piano", Fraction(40, 50), 5, melody=tune)])
    rows = model.model.melody(tune.samples, 12 * 640)
    assert not np.array_equal(rows, model.model.melody(tune.samples))
    job = Job("slow piano", 20, seed=5, prompt=result.codes[:, 12:20], start=12, melody=rows)
    assert np.array_equal(next(model.model.tokens([job]))[0], result.codes[:, 12:32])


def test_a_model_without_melody_says_so(models: dict[tuple[str, str], MusicGen]) -> None:
    with pytest.raises(InputError, match="this model takes no melody: choose one that does"):
        models["stereo", "torch"].generate([Request("slow", 1, melody=sound(np.random.default_rng(1), 1))])
