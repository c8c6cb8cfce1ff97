"""The network of a blend in torch: two clips' latents in, passages that draw on both out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from hemiola.audio.writing import replacing
from hemiola.backend import Backend
from hemiola.blend.config import BlendConfig
from hemiola.blend.layers_torch import ComponentWeights, Composer, Extractors, Tonality, silence
from hemiola.blend.selector_torch import CorrelationSelector, PooledSelector, Windows, facts
from hemiola.blend.windows_torch import cut_and_stretch
from hemiola.codec.encodec_torch import Encodec
from hemiola.weights import keys

SELECTORS: dict[str, type[CorrelationSelector] | type[PooledSelector]] = {
    "correlation": CorrelationSelector,
    "pooled": PooledSelector,
}


@dataclass
class Blended:
    """What a network makes of B pairs of clips.

    Attributes:
        output: latents of the passages, [B, P, D, F].
        input_window, target_window: what each was made from, cut and stretched, as the codec gave it, [B, P, D, F].
        components: weights a frame, [B, P, 6, F]: rhythm, harmony, timbre of the input, then of the target.
        windows: where the windows lie; those that were drawn have their shortlist.
        strengths: of the tonality of input and target, [B, 2].
    """

    output: Tensor
    input_window: Tensor
    target_window: Tensor
    components: Tensor
    windows: Windows
    strengths: Tensor


class BlendNetwork(nn.Module):
    """Selector, tonality, extractors, component weights and composer.

    What has learned nothing gives the plain mix of both windows, at ratio 1: each later part begins by adding nothing.
    """

    latent_mean: Tensor
    latent_spread: Tensor

    def __init__(self, config: BlendConfig) -> None:
        super().__init__()
        self.config = config
        size, width = config.dimensions, config.latent_dim
        self.selector: CorrelationSelector | PooledSelector = SELECTORS[config.selector](config)
        self.strength = silence(nn.Linear(4 * width, 2))
        self.tonality = nn.ModuleList(Tonality(width) for _ in range(2))
        self.extractors = Extractors(width, size.channels)
        self.weights = ComponentWeights(size.channels)
        self.composer = Composer(width, size)
        # Of the codec's latents, so that the layers see values near 1 whatever the codec's are.
        self.register_buffer("latent_mean", torch.zeros(width))
        self.register_buffer("latent_spread", torch.ones(width))

    def forward(self, input: Tensor, target: Tensor, noise: Tensor | None = None) -> Blended:
        """Latents [B, D, T] of both clips -> passages; with `noise` windows are drawn, without they are the best."""
        return self.compose(input, target, self.select(input, target, noise))

    def select(self, input: Tensor, target: Tensor, noise: Tensor | None = None) -> Windows:
        """Where the windows lie, of latents [B, D, T] of both clips."""
        return self.selector(self.even(input), self.even(target), noise)

    def compose(self, input: Tensor, target: Tensor, windows: Windows) -> Blended:
        """Passages from given windows."""
        chosen, frames = windows.chosen, self.config.output_frames
        cut = cut_and_stretch(input, chosen.input_starts, chosen.input_ratios, frames)
        other = cut_and_stretch(target, chosen.target_starts, chosen.target_ratios, frames)
        batch, pairs = cut.shape[:2]
        strengths = self._strengths(input, target)
        windows_heard = [window.flatten(0, 1) for window in (cut, other)]
        plain = [self.even(window) for window in windows_heard]
        coloured = [
            tonality(window, strengths[:, number].repeat_interleave(pairs))
            for number, (tonality, window) in enumerate(zip(self.tonality, plain))
        ]
        components = self.extractors(*coloured)
        weights = self.weights(components)
        shares = weights.unflatten(1, (2, 3)).sum(2, keepdim=True).unbind(1)
        # Of the windows as they are and of what was added to them: where that is nothing, a mix of two that are the
        # same is that window to the bit.
        mix = sum(share * window for share, window in zip(shares, windows_heard))
        added = sum(share * (after - before) for share, after, before in zip(shares, coloured, plain))
        added = added + self.composer(6 * weights[:, :, None] * components)
        output = mix + self.latent_spread[:, None] * added
        folded = (each.unflatten(0, (batch, pairs)) for each in (output, weights))
        return Blended(next(folded), cut, other, next(folded), windows, strengths)

    def noise(self, seeds: Sequence[int]) -> Tensor | None:
        """What decides a draw of windows, a row a seed."""
        return self.selector.noise(seeds)

    @torch.no_grad()
    def fit_latents(self, mean: Tensor, spread: Tensor) -> None:
        """Take over mean and standard deviation [D] of the latents that are to be blended."""
        self.latent_mean.copy_(mean)
        self.latent_spread.copy_(spread.clamp(min=1e-6))

    def _strengths(self, input: Tensor, target: Tensor) -> Tensor:
        return self.strength(facts(self.even(input), self.even(target))).sigmoid()

    def even(self, latents: Tensor) -> Tensor:
        """Latents [..., D, F] with values near 1: what the layers see."""
        return (latents - self.latent_mean[:, None]) / self.latent_spread[:, None]


def load(folder: str | Path, config: BlendConfig, choice: Backend) -> BlendNetwork:
    """A network from a folder, in eval mode; raises WeightsError that lists every tensor that does not fit."""
    tensors = keys.read(folder, "torch")
    network = BlendNetwork(config)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    keys.check(expected, tensors, where=str(folder))
    network.load_state_dict(tensors)
    return network.to(choice.device).eval()


def save(network: BlendNetwork, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors`; the folder is made when it is not there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(folder / keys.WEIGHTS, force=True) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(network.config.to_dict(), indent=2) + "\n", encoding="utf-8")


@dataclass
class Parts:
    """What `render` gives, in numpy: P passages with their windows.

    sounds: output, input window and target window of each, [P, 3, 1, samples]. components: [P, 6, F]. windows:
    start in frames and ratio of the input, then of the target, [P, 4]. strengths: of the tonality, [2].
    """

    sounds: NDArray[np.float32]
    components: NDArray[np.float32]
    windows: NDArray[np.float32]
    strengths: NDArray[np.float32]


@torch.inference_mode()
def render(
    network: BlendNetwork,
    codec: Encodec,
    input: NDArray[np.float32],
    target: NDArray[np.float32],
    seed: int | None = None,
) -> Parts:
    """Latents [1, D, T] of two clips -> passages, decoded; with a seed the windows are drawn."""
    device = network.latent_mean.device
    clips = [torch.from_numpy(each).to(device) for each in (input, target)]
    noise = None if seed is None else network.noise([seed])
    blended = network(*clips, noise)
    heard = torch.stack([blended.output[0], blended.input_window[0], blended.target_window[0]], 1)
    # One after another: a passage's three sounds are as much as has to be in memory at once.
    sounds = torch.stack([codec.synthesize(each) for each in heard])
    windows = torch.stack(blended.windows.chosen.parts, -1)[0]
    found = (sounds, blended.components[0], windows, blended.strengths[0])
    return Parts(*(each.float().cpu().numpy() for each in found))
