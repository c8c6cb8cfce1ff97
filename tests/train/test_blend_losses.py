"""The blend's losses against scipy, sums done by hand and finite differences; at unity all that reconstructs is 0."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from scipy.special import softmax
from scipy.stats import pearsonr
from transformers.audio_utils import mel_filter_bank

from hemiola.train import blend_losses
from hemiola.train.blend_losses import BLEND_LOSSES, DEFAULT_WEIGHTS, Scene, terms

RATE = 24000
QUARTER_SECOND = 6000
RECONSTRUCTIONS = ("rms_input", "rms_target", "stft", "mel", "correlation", "reconstruction", "latent_match")
FREE_OF_SOUND = ("novelty", "balance", "ratio_diversity", "adversarial", "latent_match")
Array = np.ndarray[Any, Any]


def scene(samples: int = QUARTER_SECOND, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Scene:
    """Two passages of one pair: noises whose level moves, and latents of 4 values in 7 frames."""
    rng = np.random.default_rng(seed)

    def drawn(values: Array) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype)

    def audio() -> torch.Tensor:
        levels = np.repeat(rng.uniform(0.01, 0.4, (2, 1, samples // 500 + 1)), 500, axis=2)[..., :samples]
        return drawn(levels * rng.standard_normal((2, 1, samples)))

    return replace(
        Scene(
            *(drawn(rng.standard_normal((2, 4, 7))) for _ in range(3)),
            *(audio() for _ in range(3)),
            components=drawn(softmax(rng.standard_normal((2, 6, 7)), axis=1)),
            input_ratios=drawn(rng.uniform(0.97, 1.03, (1, 2))),
            target_ratios=drawn(rng.uniform(0.97, 1.03, (1, 2))),
            latent_scale=drawn(np.array(1.7)),
            logits=drawn(rng.standard_normal(2)),
            sample_rate=RATE,
        ),
        **changes,
    )


def alike(source: Scene) -> Scene:
    """The same scene at unity: output and target are the input."""
    same = {"output": source.input_window, "target_window": source.input_window}
    return replace(source, output_audio=source.input_audio, target_audio=source.input_audio, **same)


def silent(source: Scene) -> Scene:
    """The same scene, in which nothing sounds."""
    names = ("output", "input_window", "target_window", "output_audio", "input_audio", "target_audio", "latent_scale")
    return replace(source, **{name: torch.zeros_like(getattr(source, name)) for name in names})


def numbers(source: Scene) -> dict[str, Array]:
    return {name: each.numpy() for name, each in vars(source).items() if isinstance(each, torch.Tensor)}


def scipy_magnitude(audio: Array, n_fft: int) -> Array:
    window = signal.get_window("hann", n_fft)
    _, _, spectrum = signal.stft(audio, window=window, nperseg=n_fft, noverlap=n_fft * 3 // 4, padded=False)
    return np.abs(spectrum) * window.sum() / np.sqrt((window**2).sum())


def scipy_mels(audio: Array) -> Array:
    filters = mel_filter_bank(513, 80, 0.0, RATE / 2, RATE, norm=None, mel_scale="htk").T
    return (filters / filters.sum(1, keepdims=True)) @ scipy_magnitude(audio, 1024)


def by_hand(name: str, of: dict[str, Array]) -> float:
    """The loss in numpy, one passage after another."""
    output, sources = of["output_audio"], [of["input_audio"], of["target_audio"]]
    found = []
    for n in range(2):
        for source in sources:
            ours, theirs = output[n, 0], source[n, 0]
            if name == "stft":
                for n_fft in (512, 1024, 2048):
                    a, b = scipy_magnitude(ours, n_fft), scipy_magnitude(theirs, n_fft)
                    norm, size = np.linalg.norm(a - b), np.linalg.norm(b) + 1e-3 * np.sqrt(b.size)
                    found.append(norm / size + np.abs(np.log((a + 1e-3) / (b + 1e-3))).mean())
            elif name == "mel":
                a, b = scipy_mels(ours), scipy_mels(theirs)
                logs = np.log((a + 1e-3) / (b + 1e-3))
                found.append(np.abs(a - b).mean() + np.sqrt((logs**2).mean(0)).mean())
            elif name == "correlation":
                a, b = (np.array([max(abs(x[i : i + 1024])) for i in range(0, len(x), 1024)]) for x in (ours, theirs))
                found.append((1 - pearsonr(a, b).statistic) ** 2)
            elif name == "reconstruction":
                found.append(np.abs(ours - theirs).mean())
        if name == "spectral_outlier":
            loudest = np.max([scipy_mels(source[n, 0]).max(1) for source in sources], axis=0)[:, None]
            above = np.log((scipy_mels(output[n, 0]) + 1e-3) / (loudest + 1e-3))
            found.append((np.maximum(above, 0) ** 2).mean())
    return float(np.mean(found))


@pytest.mark.parametrize("name", ["stft", "mel", "correlation", "reconstruction", "spectral_outlier"])
@pytest.mark.parametrize("samples", [QUARTER_SECOND, 8191])
def test_sounds_are_compared_as_scipy_does(name: str, samples: int) -> None:
    # Twice as loud, so that some bands rise above both sources.
    given = scene(samples)
    given = replace(given, output_audio=2 * given.output_audio)
    expected = by_hand(name, numbers(given))
    assert expected > 0.01
    assert BLEND_LOSSES[name](given).item() == pytest.approx(expected, rel=2e-3)


def test_waveforms_are_compared_by_hand() -> None:
    given = scene(dtype=torch.float64)
    of = numbers(given)
    for side in ("input", "target"):
        rms = [np.std(of["output_audio"][n] - of[f"{side}_audio"][n]) for n in range(2)]
        mean = [np.mean(of["output_audio"][n] - of[f"{side}_audio"][n]) for n in range(2)]
        expected = np.mean(np.hypot(rms, mean))
        assert BLEND_LOSSES[f"rms_{side}"](given).item() == pytest.approx(expected, rel=1e-3)


def test_latents_are_compared_by_hand() -> None:
    given = scene(dtype=torch.float64)
    of = numbers(given)
    windows = of["input_window"], of["target_window"]
    expected = np.mean([(of["output"] - window) ** 2 for window in windows]) / 1.7
    assert BLEND_LOSSES["latent_match"](given).item() == pytest.approx(expected)
    cosines = []
    for window in windows:
        for n in range(2):
            for frame in range(7):
                a, b = of["output"][n, :, frame], window[n, :, frame]
                cosines.append(abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b))
    assert BLEND_LOSSES["novelty"](given).item() == pytest.approx(np.mean(cosines), rel=0.05)


def test_novelty_does_not_cancel() -> None:
    """Frames along and frames against the source: their cosines are 1 and -1, and the loss 1."""
    along = torch.full((2, 4, 8), 10.0)
    against = along * torch.tensor([1.0, -1.0]).repeat(4)
    given = scene(output=against, input_window=along, target_window=along)
    assert BLEND_LOSSES["novelty"](given).item() == pytest.approx(1, abs=0.01)


def test_a_faint_frame_has_no_direction() -> None:
    given = scene()
    faint = replace(given, output=0.01 * given.input_window, target_window=given.input_window)
    assert BLEND_LOSSES["novelty"](faint).item() < 0.2


def test_balance_by_hand() -> None:
    one = torch.zeros(2, 6, 7)
    one[:, 2] = 1
    assert BLEND_LOSSES["balance"](scene(components=one)).item() == pytest.approx(1)
    assert BLEND_LOSSES["balance"](scene(components=torch.full((2, 6, 7), 1 / 6))).item() == pytest.approx(0, abs=1e-9)
    # Each component is everything, in a sixth of the frames: frames are free, the passage is balanced.
    turns = torch.eye(6).repeat(2, 1, 1)
    assert BLEND_LOSSES["balance"](scene(components=turns)).item() == pytest.approx(0, abs=1e-9)
    # Two that share all: (6/5) (2 (1/2 - 1/6)^2 + 4 / 36) = 2/5.
    two = torch.zeros(2, 6, 7)
    two[:, :2] = 0.5
    assert BLEND_LOSSES["balance"](scene(components=two)).item() == pytest.approx(0.4)


def test_ratio_diversity_by_hand() -> None:
    ratios = np.array([[1.0, 1.1, 0.9], [1.02, 1.0, 1.01]])
    others = np.array([[1.05, 1.1, 1.0], [1.0, 1.0, 1.02]])
    variances = np.var(np.log(np.sqrt(ratios * others)), axis=1)
    expected = -np.tanh(variances / 0.0025).mean()
    given = scene(input_ratios=torch.tensor(ratios), target_ratios=torch.tensor(others))
    assert BLEND_LOSSES["ratio_diversity"](given).item() == pytest.approx(expected)
    # What one side gains the other loses: the tempo that both share is one and the same.
    apart = scene(input_ratios=torch.tensor([[0.8, 1.25]]), target_ratios=torch.tensor([[1.25, 0.8]]))
    assert BLEND_LOSSES["ratio_diversity"](apart).item() == pytest.approx(0, abs=1e-6)
    alone = scene(input_ratios=torch.tensor([[1.2]]), target_ratios=torch.tensor([[1.0]]))
    assert BLEND_LOSSES["ratio_diversity"](alone).item() == 0


def test_ratio_diversity_is_bounded() -> None:
    found = [
        BLEND_LOSSES["ratio_diversity"](scene(input_ratios=torch.tensor([[1.0, each]]), target_ratios=torch.ones(1, 2)))
        for each in (1.0, 1.02, 1.1, 1.5)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] == 0
    assert -1 <= found[-1] < -0.99


def test_the_adversary_by_hand() -> None:
    given = scene(logits=torch.tensor([3.0, -1.0]))
    assert BLEND_LOSSES["adversarial"](given).item() == pytest.approx((0 + 2) / 2)
    with pytest.raises(ValueError, match="logits"):
        BLEND_LOSSES["adversarial"](scene(logits=None))


@settings(max_examples=15, deadline=None)
@given(samples=st.integers(QUARTER_SECOND, 20_000), seed=st.integers(0, 99), level=st.sampled_from([0.0, 1e-4, 1.0, 3]))
def test_at_unity_nothing_is_to_be_reconstructed(samples: int, seed: int, level: float) -> None:
    quiet = scene(samples, seed=seed)
    given = alike(replace(quiet, input_audio=level * quiet.input_audio, input_window=level * quiet.input_window))
    for name in (*RECONSTRUCTIONS, "spectral_outlier"):
        assert 0 <= BLEND_LOSSES[name](given).item() <= 1e-5, name


@settings(max_examples=10, deadline=None)
@given(samples=st.integers(QUARTER_SECOND, 12_000), seed=st.integers(0, 99))
def test_what_reconstructs_is_never_below_0(samples: int, seed: int) -> None:
    given = scene(samples, seed=seed)
    for name in (*RECONSTRUCTIONS, "spectral_outlier", "balance", "novelty", "adversarial"):
        assert BLEND_LOSSES[name](given).item() >= 0, name


@pytest.mark.parametrize("name", [*RECONSTRUCTIONS, "spectral_outlier"])
def test_the_further_off_the_worse(name: str) -> None:
    """From the sources to something else, in four steps."""
    far, given = scene(4 * QUARTER_SECOND, seed=1), alike(scene(4 * QUARTER_SECOND))
    # An outlier is louder than all that the sources have in its band.
    level = 6 if name == "spectral_outlier" else 1
    found = []
    for share in (0, 0.1, 0.3, 0.6, 1):
        audio = torch.lerp(given.input_audio, level * far.output_audio, share)
        output = torch.lerp(given.input_window, far.output, share)
        found.append(BLEND_LOSSES[name](replace(given, output_audio=audio, output=output)).item())
    assert found == sorted(found)
    assert found[-1] > found[1] > found[0]


@pytest.mark.parametrize("name", BLEND_LOSSES)
@pytest.mark.parametrize("kind", ["usual", "alike", "silent", "silent output", "silent sources"])
def test_gradients_are_finite(name: str, kind: str) -> None:
    given = scene()
    nothing = silent(given)
    if kind == "alike":
        given = alike(given)
    elif kind == "silent":
        given = nothing
    elif kind == "silent output":
        given = replace(given, output=nothing.output, output_audio=nothing.output_audio)
    elif kind == "silent sources":
        given = replace(nothing, output=given.output, output_audio=given.output_audio)
    leaves = {key: each.clone().requires_grad_() for key, each in vars(given).items() if isinstance(each, torch.Tensor)}
    loss = BLEND_LOSSES[name](replace(given, **leaves))
    assert loss.isfinite()
    loss.backward()
    for key, leaf in leaves.items():
        assert leaf.grad is None or leaf.grad.isfinite().all(), key


REACHES = {
    "rms_input": {"output_audio", "input_audio"},
    "rms_target": {"output_audio", "target_audio"},
    "stft": {"output_audio", "input_audio", "target_audio"},
    "mel": {"output_audio", "input_audio", "target_audio"},
    "correlation": {"output_audio", "input_audio", "target_audio"},
    "novelty": {"output", "input_window", "target_window"},
    "balance": {"components"},
    "ratio_diversity": {"input_ratios", "target_ratios"},
    "reconstruction": {"output_audio", "input_audio", "target_audio"},
    "spectral_outlier": {"output_audio", "input_audio", "target_audio"},
    "adversarial": {"logits"},
    "latent_match": {"output", "input_window", "target_window"},
}


@pytest.mark.parametrize("name", BLEND_LOSSES)
def test_a_loss_moves_what_it_is_about(name: str) -> None:
    """By finite differences in float64, along the gradient's own direction in each tensor."""
    given = scene(dtype=torch.float64)
    given = replace(given, output_audio=2 * given.output_audio)
    tensors = {key: each for key, each in vars(given).items() if isinstance(each, torch.Tensor)}
    del tensors["latent_scale"]
    leaves = {key: each.clone().requires_grad_() for key, each in tensors.items()}
    BLEND_LOSSES[name](replace(given, **leaves)).backward()
    gradients = {key: leaf.grad for key, leaf in leaves.items() if leaf.grad is not None and leaf.grad.any()}
    assert gradients.keys() == REACHES[name]
    for key, gradient in gradients.items():
        step = 1e-6 * gradient / gradient.norm()
        above, below = (BLEND_LOSSES[name](replace(given, **{key: tensors[key] + s * step})).item() for s in (1, -1))
        assert (above - below) / 2e-6 == pytest.approx(gradient.norm().item(), rel=1e-3), key


def test_equal_tempi_have_no_direction_to_part_in() -> None:
    ratios = torch.ones(2, 3, requires_grad=True)
    BLEND_LOSSES["ratio_diversity"](scene(input_ratios=ratios, target_ratios=torch.ones(2, 3))).backward()
    assert not ratios.grad.any()


def test_an_item_counts_by_itself() -> None:
    """The loss of a batch is the mean of its passages, so it can be reduced over ranks."""
    given = scene()
    latents = {name: getattr(given, name) for name in ("output", "input_window", "target_window", "components")}
    audio = {name: getattr(given, name) for name in ("output_audio", "input_audio", "target_audio", "logits")}
    split = latents | audio
    for name, loss in BLEND_LOSSES.items():
        alone = [loss(replace(given, **{key: each[n : n + 1] for key, each in split.items()})).item() for n in range(2)]
        assert loss(given).item() == pytest.approx(np.mean(alone), rel=1e-4, abs=1e-6), name


def test_there_are_twelve_with_a_weight_each() -> None:
    assert list(BLEND_LOSSES) == list(DEFAULT_WEIGHTS)
    assert list(BLEND_LOSSES) == list(REACHES)
    found = terms(scene(), {**DEFAULT_WEIGHTS, "stft": 0.0})
    assert list(found) == [name for name in BLEND_LOSSES if name != "stft"]
    with pytest.raises(ValueError, match="unknown losses loudness"):
        terms(scene(), {"loudness": 1.0})


def test_a_spectrogram_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    real = blend_losses.magnitude

    def counted(audio: torch.Tensor, n_fft: int, hop: int) -> torch.Tensor:
        sizes.append(n_fft)
        return real(audio, n_fft, hop)

    monkeypatch.setattr(blend_losses, "magnitude", counted)
    terms(scene(), dict.fromkeys(("stft", "mel", "spectral_outlier"), 1.0))
    assert sorted(sizes) == [512] * 3 + [1024] * 3 + [2048] * 3
    sizes.clear()
    terms(scene(), dict.fromkeys(FREE_OF_SOUND, 1.0))
    assert not sizes


def test_a_silent_source_does_not_outweigh_the_rest() -> None:
    given = scene()
    nothing = replace(given, input_audio=torch.zeros_like(given.input_audio))
    assert BLEND_LOSSES["stft"](nothing) < 300
    assert BLEND_LOSSES["correlation"](nothing) < 2
