"""Discriminators: of audio, by complex spectrograms at several resolutions; of latents, by their frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2


class SpectralDiscriminator(nn.Module):
    """One resolution: real and imaginary STFT of audio [B, C, samples] -> (logits [B, 1, bins, frames], features)."""

    def __init__(self, channels: int, n_fft: int, filters: int = 32) -> None:
        super().__init__()
        self.n_fft = n_fft
        norm = nn.utils.parametrizations.weight_norm
        widths = [(2 * channels, filters, 1), (filters, filters, 1), (filters, filters, 2), (filters, filters, 4)]
        self.layers = nn.ModuleList(
            norm(nn.Conv2d(a, b, (9, 3), stride=(2 if i else 1, 1), dilation=(1, d), padding=(4, d)))
            for i, (a, b, d) in enumerate(widths)
        )
        self.layers.append(norm(nn.Conv2d(filters, filters, 3, padding=1)))
        self.head = norm(nn.Conv2d(filters, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge audio; the features are what each layer saw, for feature matching."""
        hidden = self.spectrum(audio)
        features = []
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), SLOPE)
            features.append(hidden)
        return self.head(hidden), features

    def spectrum(self, audio: Tensor) -> Tensor:
        """Audio [B, C, samples] -> [B, 2C, bins, frames], scaled by the window's energy."""
        flat = audio.float().reshape(-1, audio.shape[-1])
        window = torch.hann_window(self.n_fft, device=audio.device)
        hop = self.n_fft // 4
        spectrum = torch.stft(flat, self.n_fft, hop, window=window, pad_mode="constant", return_complex=True)
        stacked = torch.view_as_real(spectrum / window.square().sum().sqrt()).permute(0, 3, 1, 2)
        return stacked.reshape(audio.shape[0], -1, *stacked.shape[-2:])


class MultiScaleDiscriminator(nn.Module):
    """Spectral discriminators side by side, one a window size (EnCodec's MS-STFT)."""

    def __init__(self, channels: int, windows: Sequence[int], filters: int = 32) -> None:
        super().__init__()
        self.scales = nn.ModuleList(SpectralDiscriminator(channels, n_fft, filters) for n_fft in windows)

    def forward(self, audio: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Audio [B, C, samples] -> (logits, features), a list entry a scale."""
        judged = [scale(audio) for scale in self.scales]
        return [logits for logits, _ in judged], [features for _, features in judged]


class LatentDiscriminator(nn.Module):
    """Judges passages of a codec's latents [N, D, F], of any length, each by itself -> logits [N].

    Convolutions over time with kernels of 3, 5, 7, 9, and the mean over frames: whether a passage is music is told by
    how frames follow each other, wherever in it that is.
    """

    def __init__(self, width: int, channels: Sequence[int] = (256, 512, 512, 256)) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.layers = nn.ModuleList(
            norm(nn.Conv1d(ins, outs, 3 + 2 * i, padding=1 + i))
            for i, (ins, outs) in enumerate(zip((width, *channels), channels))
        )
        self.head = nn.Linear(channels[-1], 1)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents [N, D, F] -> logits [N], large for what looks real."""
        hidden = latents
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), SLOPE)
        return self.head(hidden.mean(-1)).squeeze(-1)
