"""Discriminators: what they see is scipy's spectrum, and they learn to tell two kinds of sound apart."""

from __future__ import annotations

import numpy as np
import torch
from scipy import signal

from hemiola.train import losses
from hemiola.train.discriminators import LatentDiscriminator, MultiScaleDiscriminator, SpectralDiscriminator


def test_the_spectrum_is_scipys() -> None:
    audio = torch.randn(2, 2, 500, generator=torch.Generator().manual_seed(0))
    seen = SpectralDiscriminator(2, 64, filters=2).spectrum(audio)
    window = signal.get_window("hann", 64)
    _, _, expected = signal.stft(audio.double().numpy(), window=window, nperseg=64, noverlap=48, padded=False)
    expected = expected * window.sum() / np.sqrt((window**2).sum())
    for channel in range(2):
        frames = seen.shape[-1]
        np.testing.assert_allclose(seen[:, 2 * channel], expected[:, channel, :, :frames].real, atol=1e-4)
        np.testing.assert_allclose(seen[:, 2 * channel + 1], expected[:, channel, :, :frames].imag, atol=1e-4)


def test_an_item_is_judged_by_itself() -> None:
    torch.manual_seed(0)
    judge = MultiScaleDiscriminator(1, (64, 128), filters=3)
    audio = torch.randn(3, 1, 333)
    whole, features = judge(audio)
    alone, _ = judge(audio[1:2])
    for together, single in zip(whole, alone):
        torch.testing.assert_close(together[1:2], single)
    assert [len(scale) for scale in features] == [5, 5]


def test_it_learns_to_tell_noise_from_a_tone() -> None:
    torch.manual_seed(0)
    judge = MultiScaleDiscriminator(1, (64, 128), filters=4)
    optimizer = torch.optim.Adam(judge.parameters(), lr=3e-3)
    tone = torch.sin(torch.arange(400) * 0.3 + torch.rand(4, 1, 1) * 6)
    before = {name: each.detach().clone() for name, each in judge.named_parameters()}
    for _ in range(30):
        optimizer.zero_grad()
        loss = losses.hinge_discriminator(judge(tone)[0], judge(torch.randn(4, 1, 400))[0])
        loss.backward()
        optimizer.step()
    assert loss < 0.5  # from 2, which is where a judge that knows nothing stands
    assert all((each != before[name]).any() for name, each in judge.named_parameters())


def test_silence_gives_finite_gradients() -> None:
    torch.manual_seed(0)
    judge = MultiScaleDiscriminator(1, (64,), filters=2)
    silence = torch.zeros(1, 1, 200, requires_grad=True)
    losses.hinge_generator(judge(silence)[0]).backward()
    assert silence.grad.isfinite().all()
    assert all(each.grad.isfinite().all() for each in judge.parameters())


def test_a_passage_of_latents_is_judged_by_itself_whatever_its_length() -> None:
    torch.manual_seed(0)
    judge = LatentDiscriminator(4, (6, 5))
    latents = torch.randn(3, 4, 37)
    logits = judge(latents)
    assert logits.shape == (3,)
    torch.testing.assert_close(judge(latents[1:2]), logits[1:2])
    assert judge(latents[..., :5]).isfinite().all()


def test_a_judge_of_latents_is_convolutions_and_a_mean() -> None:
    """Against numpy's correlation, layer by layer, with kernels of 3 and 5."""
    torch.manual_seed(0)
    judge = LatentDiscriminator(2, (3, 2))
    latents = torch.randn(1, 2, 11)
    hidden = latents[0].detach().numpy()
    for layer, kernel in zip(judge.layers, (3, 5)):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        assert weight.shape[-1] == kernel
        summed = [sum(np.correlate(x, w, "same") for x, w in zip(hidden, filters)) for filters in weight]
        hidden = np.array(summed) + bias[:, None]
        hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    expected = judge.head.weight.detach().numpy() @ hidden.mean(1) + judge.head.bias.detach().numpy()
    np.testing.assert_allclose(judge(latents).detach().numpy(), expected, atol=1e-5)


def test_a_judge_of_latents_hears_order() -> None:
    """Same frames, in order or shuffled: what only the neighbourhood tells."""
    torch.manual_seed(0)
    judge = LatentDiscriminator(2, (8, 8))
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2)
    for _ in range(60):
        times = torch.arange(48) * 0.4 + 6 * torch.rand(8, 1)
        real = torch.stack([times.sin(), times.cos()], 1)
        fake = real[..., torch.randperm(48)]
        optimizer.zero_grad()
        loss = losses.hinge_discriminator([judge(real)], [judge(fake)])
        loss.backward()
        optimizer.step()
    assert loss < 0.5
