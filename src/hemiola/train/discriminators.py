"""Discriminators: complex spectrograms at several resolutions, each judged by a small 2-D convolutional network."""

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
