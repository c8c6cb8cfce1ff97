"""Losses against scipy, transformers, sums done by hand, and autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import signal
from transformers.audio_utils import mel_filter_bank

from hemiola.train import losses

RATE = 8000


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scipy_magnitude(audio: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    window = signal.get_window("hann", n_fft)
    _, _, spectrum = signal.stft(audio, window=window, nperseg=n_fft, noverlap=n_fft - hop, padded=False)
    return np.abs(spectrum) * window.sum() / np.sqrt((window**2).sum())


def reference_filters(n_fft: int, mels: int) -> np.ndarray:
    filters = mel_filter_bank(n_fft // 2 + 1, mels, 0.0, RATE / 2, RATE, norm=None, mel_scale="htk").T
    return filters / filters.sum(1, keepdims=True)


def test_a_root_is_0_at_0_and_has_a_slope_there() -> None:
    power = torch.tensor([0.0, 1e-14, 1e-10, 1e-4, 2.0], requires_grad=True)
    found = losses.root(power)
    exact = np.sqrt(power.detach().double().numpy() + 1e-10) - 1e-5
    np.testing.assert_allclose(found.detach().numpy(), exact, rtol=1e-5, atol=1e-15)
    assert found[0] == 0
    found.sum().backward()
    np.testing.assert_allclose(power.grad.numpy(), 0.5 / (exact + 1e-5), rtol=1e-4)


@pytest.mark.parametrize(("n_fft", "hop"), [(64, 16), (256, 64)])
def test_magnitude_is_scipys(n_fft: int, hop: int) -> None:
    audio = noise(2, 1, 1024).double()
    expected = scipy_magnitude(audio.numpy(), n_fft, hop)
    np.testing.assert_allclose(losses.magnitude(audio.float(), n_fft, hop), expected, rtol=1e-3, atol=2e-5)


def test_noise_has_its_rms_in_every_bin() -> None:
    magnitude = losses.magnitude(0.01 * noise(1, 100_000), 64, 64)
    rms = magnitude.square().mean(-1).sqrt()[0, 1:-1]  # the first and the last bin are real: half as free
    torch.testing.assert_close(rms, torch.full_like(rms, 0.01), rtol=0.05, atol=0)


def test_a_sine_stands_in_its_own_bin() -> None:
    n_fft, bin_number = 128, 20
    time = torch.arange(4096) / RATE
    sine = torch.sin(2 * math.pi * (bin_number * RATE / n_fft) * time)
    magnitude = losses.magnitude(sine, n_fft, 32)[:, 8:-8]
    assert (magnitude.argmax(0) == bin_number).all()
    # Half the window's sum over the root of its energy: (n / 4) / sqrt(3 n / 8).
    expected = torch.full_like(magnitude[bin_number], (n_fft / 4) / math.sqrt(3 * n_fft / 8))
    torch.testing.assert_close(magnitude[bin_number], expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("n_fft", "mels"), [(512, 20), (1024, 40)])
def test_mel_filters_are_transformers(n_fft: int, mels: int) -> None:
    np.testing.assert_allclose(losses.mel_filterbank(RATE, n_fft, mels), reference_filters(n_fft, mels), atol=1e-5)


def test_no_mel_filter_is_empty() -> None:
    filters = losses.mel_filterbank(RATE, 64, 64)
    torch.testing.assert_close(filters.sum(1), torch.ones(64))
    narrow = filters[(filters > 0).sum(1) == 1]
    assert len(narrow) > 10
    assert (narrow.max(1).values == 1).all()


def test_multi_scale_mel_is_the_sum_done_by_hand() -> None:
    output, reference = noise(2, 1, 2048, seed=1), noise(2, 1, 2048, seed=2)
    # So many bins for so few filters that no filter is empty.
    expected = 0.0
    for n_fft in (512, 1024):
        filters = reference_filters(n_fft, 16)
        ours, theirs = (filters @ scipy_magnitude(each.numpy(), n_fft, n_fft // 4) for each in (output, reference))
        logs = np.log(ours + 0.01) - np.log(theirs + 0.01)
        expected += (np.abs(ours - theirs).mean() + np.sqrt((logs**2).mean(2)).mean()) / 2
    found = losses.multi_scale_mel(output, reference, RATE, (512, 1024), mels=16, floor=0.01)
    assert found.item() == pytest.approx(expected, rel=1e-3)


def test_below_its_floor_a_difference_says_little() -> None:
    reference = torch.zeros(1, 1, 2048)
    quiet, loud = (losses.multi_scale_mel(level * noise(1, 1, 2048), reference, RATE, (256,)) for level in (1e-5, 1e-1))
    assert quiet < 0.02
    assert loud > 3


def test_mel_is_in_float32_under_autocast() -> None:
    output, reference = noise(1, 1, 1024, seed=1), noise(1, 1, 1024, seed=2)
    expected = losses.multi_scale_mel(output, reference, RATE, (256,))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(losses.multi_scale_mel(output, reference, RATE, (256,)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("loss", [losses.waveform_l1, lambda a, b: losses.multi_scale_mel(a, b, RATE, (64, 256))])
def test_silence_has_a_finite_gradient(loss) -> None:
    output = torch.zeros(2, 1, 1024, requires_grad=True)
    loss(output, 0.1 * noise(2, 1, 1024)).backward()
    assert output.grad.isfinite().all()
    again = torch.zeros(2, 1, 1024, requires_grad=True)
    loss(again, torch.zeros(2, 1, 1024)).backward()
    assert again.grad.isfinite().all()


def test_hinge_by_hand() -> None:
    real = [torch.tensor([2.0, 0.5]), torch.tensor([-1.0])]
    fake = [torch.tensor([-3.0, 0.0]), torch.tensor([1.0])]
    # Scale 1: real (0 + .5)/2, fake (0 + 1)/2. Scale 2: real 2, fake 2.
    assert losses.hinge_discriminator(real, fake).item() == pytest.approx((0.75 + 4.0) / 2)
    # Scale 1: (4 + 1)/2. Scale 2: 0.
    assert losses.hinge_generator(fake).item() == pytest.approx(1.25)


def test_feature_matching_by_hand() -> None:
    real = [[torch.tensor([1.0, -3.0]), torch.tensor([4.0])], [torch.tensor([0.5])]]
    fake = [[torch.tensor([2.0, -1.0]), torch.tensor([4.0])], [torch.tensor([1.0])]]
    expected = (1.5 / 2 + 0.0 + 0.5 / 0.5) / 3
    assert losses.feature_matching(real, fake).item() == pytest.approx(expected, rel=1e-4)


def test_feature_matching_moves_only_the_fake() -> None:
    real, fake = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    losses.feature_matching([[real]], [[fake]]).backward()
    assert real.grad is None
    assert (fake.grad < 0).all()


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        losses.feature_matching([[torch.ones(1)]], [[torch.ones(1), torch.ones(1)]])


def test_a_loss_without_weight_is_not_computed() -> None:
    def never() -> torch.Tensor:
        raise RuntimeError("computed")

    terms = losses.weighted({"a": lambda: torch.tensor(3.0), "b": never}, {"a": 0.5, "b": 0})
    assert terms == {"a": torch.tensor(3.0)}
    with pytest.raises(ValueError, match="unknown losses c: known are a, b"):
        losses.weighted({"a": never, "b": never}, {"c": 1.0})


def balanced(weights: dict[str, float], scale: float = 1.0) -> tuple[losses.Balancer, torch.Tensor]:
    output = noise(3, 1, 40).requires_grad_()
    target = noise(3, 1, 40, seed=5)
    known = {"l1": (output - target).abs().mean(), "l2": scale * (output - target).square().sum()}
    balancer = losses.Balancer(weights)
    return balancer, balancer.gradient({name: known[name] for name in weights}, output)


def test_a_weight_is_a_share_of_the_update() -> None:
    parts = {}
    for name in ("l1", "l2"):
        _, gradient = balanced({name: 1.0})
        # Alone, a loss has the mean norm of 1 an item.
        assert gradient.flatten(1).norm(dim=1).mean().item() == pytest.approx(1.0, rel=1e-5)
        parts[name] = gradient
    _, both = balanced({"l1": 1.0, "l2": 3.0})
    torch.testing.assert_close(both, 0.25 * parts["l1"] + 0.75 * parts["l2"])


def test_the_size_of_a_loss_does_not_count() -> None:
    torch.testing.assert_close(balanced({"l1": 1.0, "l2": 3.0}, 1e4)[1], balanced({"l1": 1.0, "l2": 3.0})[1])


def test_a_balanced_gradient_is_autograds_own_direction() -> None:
    output = noise(1, 1, 12).requires_grad_()
    losses.waveform_l1(output, torch.zeros(1, 1, 12)).backward()
    gradient = losses.Balancer({"l1": 2.0}).gradient({"l1": output.abs().mean()}, output)
    torch.testing.assert_close(gradient, output.grad / output.grad.norm())


def test_norms_are_running_means_and_resume() -> None:
    norms = [3.0, 1.0, 5.0, 0.5]
    weighted_sum = count = 0.0
    balancer = losses.Balancer({"linear": 1.0}, decay=0.5)
    for number, norm in enumerate(norms):
        if number == 2:  # as after a resume
            state, balancer = balancer.state_dict(), losses.Balancer({"linear": 1.0}, decay=0.5)
            balancer.load_state_dict(state)
        output = torch.zeros(1, 1, requires_grad=True)
        gradient = balancer.gradient({"linear": norm * output.sum()}, output)
        weighted_sum, count = weighted_sum * 0.5 + norm, count * 0.5 + 1
        assert gradient.item() == pytest.approx(norm / (weighted_sum / count))


def test_a_loss_without_gradient_takes_no_part() -> None:
    output = noise(2, 1, 8).requires_grad_()
    terms = {"flat": 0 * output.sum(), "l1": output.abs().mean()}
    gradient = losses.Balancer({"flat": 1.0, "l1": 1.0}).gradient(terms, output)
    assert gradient.isfinite().all()
    assert gradient.flatten(1).norm(dim=1).mean().item() == pytest.approx(0.5, rel=1e-5)
