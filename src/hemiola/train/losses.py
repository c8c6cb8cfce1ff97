"""Losses as pure functions of tensors: waveform, spectral, mel and adversarial terms.

Shapes: audio [B, C, samples]; a loss is a scalar tensor. Spectra are computed in float32 at least, whatever the
precision around.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from hemiola.train import ranks

EPSILON = 1e-5


def waveform_l1(output: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute difference of two waveforms of one shape."""
    return (output - reference).abs().mean()


def root(power: Tensor) -> Tensor:
    """Square root that is exactly 0 at 0 and has a finite gradient there: sqrt(power + EPSILON^2) - EPSILON."""
    # Written as a quotient, because the difference of two nearly equal numbers may come out below 0.
    return power / ((power + EPSILON**2).sqrt() + EPSILON)


def magnitude(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    """Magnitude spectrogram of audio [..., samples] -> [..., n_fft // 2 + 1, frames], Hann window of unit energy.

    The root has a floor inside, so its gradient is finite at silence.
    """
    precision = torch.promote_types(audio.dtype, torch.float32)
    flat = audio.to(precision).reshape(-1, audio.shape[-1])
    window = torch.hann_window(n_fft, dtype=precision, device=audio.device)
    spectrum = torch.stft(flat, n_fft, hop, window=window, center=True, pad_mode="constant", return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    scaled = (power / window.square().sum() + EPSILON**2).sqrt()
    return scaled.reshape(*audio.shape[:-1], *scaled.shape[-2:])


@lru_cache(maxsize=32)
def mel_filterbank(sample_rate: int, n_fft: int, mels: int) -> Tensor:
    """Triangular filters on the HTK mel scale, [mels, n_fft // 2 + 1], each of sum 1.

    A filter so narrow that it holds no bin takes the bin nearest to it.
    """
    top_mel = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges_hz = 700 * (10 ** (torch.linspace(0, top_mel, mels + 2, dtype=torch.float64) / 2595) - 1)
    bins_hz = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    lower, center, upper = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    filters = torch.minimum((bins_hz - lower) / (center - lower), (upper - bins_hz) / (upper - center)).clamp(min=0)
    empty = filters.sum(1) == 0
    nearest = (bins_hz - center).abs().argmin(1)
    filters[empty, nearest[empty]] = 1.0
    return (filters / filters.sum(1, keepdim=True)).float()


def mel_spectrogram(audio: Tensor, sample_rate: int, n_fft: int, mels: int) -> Tensor:
    """Mel magnitudes of audio [..., samples] -> [..., mels, frames], hop a quarter of the window."""
    return mel_bands(magnitude(audio, n_fft, n_fft // 4), sample_rate, mels)


def mel_bands(magnitudes: Tensor, sample_rate: int, mels: int) -> Tensor:
    """Magnitudes [..., bins, frames] -> those of mel bands [..., mels, frames]."""
    filters = mel_filterbank(sample_rate, 2 * (magnitudes.shape[-2] - 1), mels).to(magnitudes)
    with torch.autocast(magnitudes.device.type, enabled=False):
        return filters @ magnitudes


def mel_distance(output: Tensor, reference: Tensor, floor: float) -> Tensor:
    """L1 of mel magnitudes [..., mels, frames] plus RMS over bands of their logarithms above `floor`."""
    log_difference = torch.log(output + floor) - torch.log(reference + floor)
    return (output - reference).abs().mean() + root(log_difference.square().mean(-2)).mean()


def multi_scale_mel(
    output: Tensor, reference: Tensor, sample_rate: int, windows: Sequence[int], *, mels: int = 64, floor: float = 1e-3
) -> Tensor:
    """L1 of the magnitudes plus RMS over bands of their logarithms, averaged over windows (EnCodec, eq. 3).

    `floor` is the magnitude below which a band counts as silent; noise of that RMS has it in every band. A floor far
    below hearing makes the loss about the noise in silent bands, and little else is learned.
    """
    total = output.new_zeros(())
    for n_fft in windows:
        ours, theirs = (mel_spectrogram(each, sample_rate, n_fft, mels) for each in (output, reference))
        total = total + mel_distance(ours, theirs, floor)
    return total / len(windows)


def hinge_discriminator(real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor]) -> Tensor:
    """Hinge loss of a discriminator, averaged over its scales."""
    pairs = zip(real_logits, fake_logits, strict=True)
    return torch.stack([F.relu(1 - real).mean() + F.relu(1 + fake).mean() for real, fake in pairs]).mean()


def hinge_generator(fake_logits: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the generator: each logit of a fake should be at least 1."""
    return torch.stack([F.relu(1 - fake).mean() for fake in fake_logits]).mean()


def feature_matching(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean absolute difference of discriminator features, each relative to the real feature's mean size."""
    pairs = [pair for ours, theirs in zip(real, fake, strict=True) for pair in zip(ours, theirs, strict=True)]
    terms = [(a.detach() - b).abs().mean() / (ranks.mean(a.detach().abs().mean()) + EPSILON) for a, b in pairs]
    return torch.stack(terms).mean()


def weighted(losses: Mapping[str, Callable[[], Tensor]], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Compute the named losses whose weight is not 0; a weight for an unknown name raises ValueError."""
    unknown = sorted(set(weights) - set(losses))
    if unknown:
        raise ValueError(f"unknown losses {', '.join(unknown)}: known are {', '.join(losses)}")
    return {name: losses[name]() for name, weight in weights.items() if weight}


class Balancer:
    """Weighs losses by the size of their gradient at the model's output, so a weight is a share of the update.

    Each loss's gradient with respect to `output` is divided by a running mean of its own norm and scaled to
    weight / sum(weights). So the size of a loss does not count, and one that is added takes its share of the update
    without changing what the others are to each other (EnCodec, section 3.4).
    The running norms are in `state_dict()`, so a run resumes exactly.
    """

    def __init__(self, weights: Mapping[str, float], decay: float = 0.999) -> None:
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.decay = decay
        self.sums: dict[str, float] = {}
        self.counts: dict[str, float] = {}

    def gradient(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """The balanced gradient at `output`, to be handed to `output.backward(gradient)`."""
        total = sum(self.weights[name] for name in losses)
        balanced = torch.zeros_like(output)
        norms = {}
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, output, retain_graph=True)
            norms[name] = self._track(name, gradient)
            balanced += gradient * (self.weights[name] / total / (norms[name] + 1e-12))
        return balanced

    def _track(self, name: str, gradient: Tensor) -> float:
        # Of the loss over the batch of all ranks: that is their mean, so it falls to an item by a rank's share only.
        norm = ranks.mean(gradient.flatten(1).norm(dim=1).mean()) / ranks.world()
        self.sums[name] = self.sums.get(name, 0.0) * self.decay + norm.item()
        self.counts[name] = self.counts.get(name, 0.0) * self.decay + 1
        return self.sums[name] / self.counts[name]

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Running norms."""
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Take over running norms."""
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
