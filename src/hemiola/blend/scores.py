"""What a blend did, in numbers: how much it copied, how far apart its windows lie, what it was composed of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemiola.audio.overview import Overview

Array = NDArray[Any]

# A copy score from which a passage counts as a copy. A mix of two unrelated pieces has 0.7 with each when both are as
# loud, and 0.95 with the one that is 12 dB louder than the other; a piece with noise 20 dB below it has 0.99.
COPIES = 0.9
COMPONENTS = ("input_rhythm", "input_harmony", "input_timbre", "target_rhythm", "target_harmony", "target_timbre")
_RANGE = 1e-3  # of power: 30 dB below the loudest, where what a codec adds is as loud as what it keeps


def copy_score(output: Overview, source: Overview) -> float:
    """How much a passage copies the window it was made from, moment by moment: 1 is a copy, 0 what chance gives.

    Pearson's correlation of log-mel envelopes over all bands and moments, each band less its own mean: what all music
    has in common, more bass than treble, does not count, and neither does a gain. Silence copies nothing and has 0.
    Raises ValueError for two sounds of different lengths or sample rates.
    """
    if (output.length, output.sample_rate) != (source.length, source.sample_rate):
        lengths = f"{output.length} samples at {output.sample_rate} Hz and {source.length} at {source.sample_rate} Hz"
        raise ValueError(f"a copy score is of two sounds at one clock, not of {lengths}")
    ours, theirs = (_envelopes(each) for each in (output, source))
    size = np.sqrt((ours**2).sum() * (theirs**2).sum())
    return float((ours * theirs).sum() / size) if size > 0 else 0.0


def copied(scores: dict[str, float]) -> str:
    """The source that a passage copies, by name ("" for none), of a copy score for each."""
    name = max(scores, key=scores.__getitem__)
    return name if scores[name] >= COPIES else ""


def window_diversity(starts: Array, ends: Array) -> float:
    """How little the windows of one clip share: 1 less the mean of what two of them share of all that they span.

    starts and ends [P], in any unit of time. 1 where no two windows share a moment, 0 where all are the same.
    """
    first, second = np.triu_indices(len(starts), 1)
    if not first.size:
        return 1.0
    shared = np.minimum(ends[first], ends[second]) - np.maximum(starts[first], starts[second])
    spanned = np.maximum(ends[first], ends[second]) - np.minimum(starts[first], starts[second])
    return float(1 - np.mean(np.maximum(shared, 0) / spanned))


def component_means(components: Array) -> dict[str, float]:
    """Weights [6, frames] -> the mean of each component by name."""
    return dict(zip(COMPONENTS, map(float, components.mean(axis=-1)), strict=True))


def _envelopes(sound: Overview) -> Array:
    """Levels of the mel bands [MELS, columns] in a logarithm, each band's mean taken away."""
    loudest = float(sound.mel.max())
    if not loudest:
        return np.zeros(sound.mel.shape)
    levels = np.log(sound.mel.astype(np.float64) / loudest + _RANGE)
    return levels - levels.mean(axis=1, keepdims=True)
