"""What a batch reads in its texts, made ready for `reading_numba`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from torch import Tensor

from hemiola.kernels.memory import lined
from hemiola.kernels.sixes_numba import INPUTS
from hemiola.kernels.team_torch import team
from hemiola.musicgen import memory_numba, reading_numba
from hemiola.musicgen.packed_torch import Kernels
from hemiola.musicgen.reading_numba import Folded, Text


def text_for(kernels: Kernels, caches: Sequence[Tensor], states: Sequence[Tensor | None]) -> Text:
    """Keys and values [2, readers, heads, L, n] of every layer, made of `states`, alike where it is the same.

    A text is folded if that is less to read: it depends on nothing beside it.
    """
    heads, width = kernels.config.num_attention_heads, kernels.config.hidden_size
    stop = [0 if each is None else len(each) for each in states]
    runs, before, number = [], 0, 0
    for _, group in groupby(range(len(states)), key=lambda row: id(states[row])):
        rows = list(group)
        state = states[rows[0]]
        if state is None:
            continue
        places = -(-len(state) // INPUTS) * INPUTS
        # What is not a number would be lost in folding.
        is_folded = (
            kernels.turned is not None and 2 * places <= kernels.config.head_dim and bool(state.isfinite().all())
        )
        places = places if is_folded else 0
        runs.append((rows[0], rows[-1] + 1, places, before, number))
        before, number = before + places, number + (places > 0)
    longest = max((stop[first] for first, _, places, _, _ in runs if not places), default=0)
    memory = kernels.memory([0] * len(stop), stop, longest)
    text = Text(
        np.array(runs, np.int64).reshape(-1, 5),
        memory,
        _empty(kernels, before * heads * width, before * heads),
        _empty(kernels, before * heads * width, number * width),
    )
    for index, pair in enumerate(caches if longest else ()):
        team().run(memory_numba.remember, memory, index, *pair.numpy())
    for run in text.runs[text.runs[:, 2] > 0]:
        # By numpy: torch's threads would look for more work for some milliseconds, in the way of ours.
        pairs = np.stack([each[:, run[0], :, : stop[run[0]]].numpy() for each in caches])
        team().run(reading_numba.fold, kernels.turned, kernels.weights.read_out, pairs, run, text)
    return text


def _empty(kernels: Kernels, weights: int, units: int) -> Folded | None:
    """Room for folded matrices of all layers; None where there can be none."""
    if kernels.turned is None:
        return None
    layers = len(kernels.weights.norms)
    return Folded(lined((layers, weights), np.uint8), np.empty((layers, units), np.float32))
