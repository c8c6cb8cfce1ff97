"""`Blend`: two recordings in, passages that draw on both out, in numpy."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemiola.audio.audio import Audio
from hemiola.backend import choose
from hemiola.blend.config import BlendConfig
from hemiola.blend.passage import Passage, Span
from hemiola.codec.model import EncodecModel
from hemiola.errors import AudioError, InputError, WeightsError
from hemiola.timebase import Seconds, Timebase
from hemiola.weights import hub, keys

BACKEND = "torch"

# Input and target, float32 [1, samples] each at the codec's rate.
Clips = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Rendered:
    """What `Blend.render` gives: the passages, the two clips as they were heard, and the strengths of the tonality.

    Clips are float32 [1, samples] at the codec's rate.
    """

    passages: tuple[Passage, ...]
    input: NDArray[np.float32]
    target: NDArray[np.float32]
    input_strength: float
    target_strength: float


class Blend:
    """A trained blend and the codec whose latents it blends."""

    def __init__(self, config: BlendConfig, network: Any, codec: EncodecModel) -> None:
        self.config, self.network, self.codec = config, network, codec

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, codec: str | None = None, device: str = "auto", allow_pickle: bool = False
    ) -> Blend:
        """Load a checkpoint folder, and the codec that it names, or that `codec` names where that lies elsewhere.

        Raises BackendError, DownloadError, or WeightsError for what is missing, incomplete or does not fit.
        """
        choice = choose(BACKEND, device, "float32")
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise WeightsError(f"no such folder with a blend: {path}; train one with hemiola train blend")
        config = BlendConfig.from_dict(keys.json_of(folder / hub.CONFIG))
        network = importlib.import_module(f"hemiola.blend.network_{BACKEND}").load(folder, config, choice)
        name = codec or config.codec
        model = EncodecModel.from_pretrained(name, backend=BACKEND, device=choice.device, allow_pickle=allow_pickle)
        _require_fit(config, model, name)
        return cls(config, network, model)

    @property
    def timebase(self) -> Timebase:
        """The codec's clock."""
        return self.codec.timebase

    @property
    def clip_samples(self) -> int:
        """Samples that are heard of each recording, at the codec's rate."""
        return self.timebase.samples_of(self.config.clip_frames)

    @property
    def output_samples(self) -> int:
        """Samples of each passage, at the codec's rate."""
        return self.timebase.samples_of(self.config.output_frames)

    def render(
        self,
        input: Audio,
        target: Audio,
        *,
        input_start: Seconds = 0,
        target_start: Seconds = 0,
        seed: int | None = None,
    ) -> Rendered:
        """Blend what follows the two starts; with a `seed` the windows are drawn, without they are the best found.

        Recordings may have any rate and number of channels. Raises AudioError for one that is too short.
        """
        return self.compose(self.clips(input, target, input_start=input_start, target_start=target_start), seed=seed)

    def clips(self, input: Audio, target: Audio, *, input_start: Seconds = 0, target_start: Seconds = 0) -> Clips:
        """As much of both recordings as the model hears, from their starts on; raises as `render` does."""
        return self._clip(input, input_start, "the input"), self._clip(target, target_start, "the target")

    def compose(self, clips: Clips, *, seed: int | None = None) -> Rendered:
        """Passages of what `clips` gave."""
        network = importlib.import_module(f"hemiola.blend.network_{BACKEND}")
        latents = [self.codec.latents(clip[None]) for clip in clips]
        parts = network.render(self.network, self.codec.network, *latents, seed)
        frames = self.config.output_frames
        passages = tuple(
            Passage(
                output,
                input_window,
                target_window,
                Span.of(float(window[0]), float(window[1]), frames, self.timebase),
                Span.of(float(window[2]), float(window[3]), frames, self.timebase),
                components,
                self.timebase.sample_rate,
            )
            for (output, input_window, target_window), components, window in zip(
                parts.sounds, parts.components, parts.windows
            )
        )
        return Rendered(passages, *clips, *(float(each) for each in parts.strengths))

    def _clip(self, audio: Audio, start: Seconds, which: str) -> NDArray[np.float32]:
        """As much of a recording as the model hears, float32 [1, samples], mono at the codec's rate."""
        rate = self.codec.sampling_rate
        name = f"{which} ({audio.source})" if audio.source else which
        try:
            first = Timebase(rate, 1).samples(start)
        except ValueError as error:
            raise InputError(f"the start of {name}: {error}") from None
        samples = audio.to_channels(1).resample(rate).samples
        left = samples.shape[1] - first
        if left < self.clip_samples:
            clock = Timebase(rate, 1)
            needed = float(clock.seconds(self.clip_samples))
            there = math.floor(100 * clock.seconds(max(left, 0))) / 100  # never what is needed, by rounding
            where = f" from {first / rate:g} s on" if first else ""
            raise AudioError(
                f"{name} is {there:.2f} s long{where}, a blend takes {needed:g} s of it: take a longer one"
            )
        return samples[:, first : first + self.clip_samples]


def _require_fit(config: BlendConfig, codec: EncodecModel, name: str) -> None:
    """Raise WeightsError for a codec whose latents are not those that a blend was trained on."""
    alike = codec.channels == 1 and codec.chunk_length is None and codec.config.hidden_size == config.latent_dim
    weights = importlib.import_module(f"hemiola.codec.fingerprint_{BACKEND}").fingerprint
    if not alike or (config.codec_weights and weights(codec.network) != config.codec_weights):
        raise WeightsError(f"the codec {name} does not fit this blend: it was trained on {config.codec}")
