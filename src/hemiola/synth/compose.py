"""Composing: a seed becomes a piece, which is audio, a caption and the truth about both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hemiola.synth.captions import describe
from hemiola.synth.plan import plan
from hemiola.synth.render import render
from hemiola.synth.score import Brief, Truth, truth_of
from hemiola.synth.seeds import stream
from hemiola.timebase import Seconds


@dataclass(frozen=True)
class Piece:
    """A piece: audio float32 [channels, samples], what it is called, and what is true of it."""

    audio: np.ndarray
    sample_rate: int
    caption: str
    truth: Truth


def compose(
    seed: int,
    *,
    seconds: Seconds = 8.0,
    sample_rate: int = 32000,
    channels: int = 1,
    brief: Brief | None = None,
) -> Piece:
    """The piece of a seed: the same seed and settings give the same bytes. Take seeds from `seeds.split_seed`.

    Raises InputError for a seed, duration, channel count or brief that cannot be had.
    """
    score = plan(seed, seconds, brief)
    audio = render(score, sample_rate=sample_rate, channels=channels)
    return Piece(audio, sample_rate, describe(score, stream(seed, "caption")), truth_of(score))
