"""CLAP: how well music fits its caption, and how far a set of pieces lies from another, by a published model's ears."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hemiola.audio.resample import resample
from hemiola.errors import BackendError, WeightsError

Array = NDArray[Any]


class Clap:
    """A CLAP of transformers (Wu et al., 2023); embeddings are float64 [pieces, width] of length 1."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model.eval(), processor

    @classmethod
    def from_pretrained(cls, name: str) -> Clap:
        """A folder, or a name on the hub such as laion/larger_clap_music.

        Raises BackendError where transformers is missing, WeightsError where the model cannot be had.
        """
        try:
            from transformers import ClapModel, ClapProcessor
        except ImportError:
            raise BackendError("CLAP needs transformers: pip install 'hemiola[eval]'") from None
        try:
            return cls(ClapModel.from_pretrained(name), ClapProcessor.from_pretrained(name))
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise WeightsError(
                f"no CLAP model {name} ({reason}): name a folder that holds one, or connect so that it can be fetched"
            ) from None

    @torch.inference_mode()
    def of_audio(self, pieces: Sequence[Array], sample_rate: int) -> Array:
        """Embeddings of audio [channels, samples]; what a piece has beyond the model's window (10 s) is not heard."""
        extractor = self.processor.feature_extractor
        rate = extractor.sampling_rate
        heard = [
            resample(piece.mean(axis=0, keepdims=True), sample_rate, rate)[0, : extractor.nb_max_samples]
            for piece in pieces
        ]
        inputs = extractor(heard, sampling_rate=rate, return_tensors="pt")
        return _unit(self.model.get_audio_features(**inputs))

    @torch.inference_mode()
    def of_text(self, captions: Sequence[str]) -> Array:
        """Embeddings of captions."""
        inputs = self.processor.tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
        return _unit(self.model.get_text_features(**inputs))


class Embedded:
    """Makes music as `make` does, and keeps the embeddings of what was made."""

    def __init__(self, make: Callable[[Any], Sequence[Array]], clap: Clap, sample_rate: int) -> None:
        self.make, self.clap, self.sample_rate = make, clap, sample_rate
        self.found: list[Array] = []

    def __call__(self, trials: Any) -> Sequence[Array]:
        """What `make` gives for some trials."""
        pieces = self.make(trials)
        self.found.append(self.clap.of_audio(pieces, self.sample_rate))
        return pieces

    @property
    def embeddings(self) -> Array:
        """Of all pieces so far, [pieces, width]."""
        return np.concatenate(self.found)


def scores(text: Array, music: Array, truth: Array) -> dict[str, float | None]:
    """CLAP score of music with its captions, by chance and of the true music; and the Fréchet distance to that."""
    fits, best = text @ music.T, text @ truth.T
    others = fits[~np.eye(len(fits), dtype=bool)]
    return {
        "clap_score": float(np.diag(fits).mean()),
        "clap_score_by_chance": float(others.mean()) if others.size else None,
        "clap_score_of_true_music": float(np.diag(best).mean()),
        "fad": frechet_distance(music, truth) if len(music) > 1 else None,
    }


def frechet_distance(one: Array, other: Array) -> float:
    """Between Gaussians fitted to embeddings [pieces, width] (Kilgour et al., 2019); too large where pieces are few."""
    means = one.mean(axis=0) - other.mean(axis=0)
    first, second = (np.cov(each, rowvar=False) for each in (one, other))
    # The root of a product of covariances has the roots of its eigenvalues, which are real and not negative.
    roots = np.sqrt(np.maximum(np.linalg.eigvals(first @ second).real, 0))
    return float(means @ means + np.trace(first) + np.trace(second) - 2 * roots.sum())


def _unit(features: Any) -> Array:
    # Later versions of transformers wrap what they pool.
    pooled = getattr(features, "pooler_output", features).double().numpy()
    return pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)
