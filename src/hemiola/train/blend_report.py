"""What a blend training writes when it validates: passages and their windows as sound and picture, figures as rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hemiola.audio import io
from hemiola.audio.overview import glance
from hemiola.audio.writing import replacing
from hemiola.blend import picture
from hemiola.blend.network_torch import Blended
from hemiola.blend.passage import Passage, Span, diversity
from hemiola.timebase import Timebase

Array = NDArray[Any]
Row = Mapping[str, Any]


def passages(blended: Blended, sounds: Sequence[Tensor], clock: Timebase, item: int) -> list[Passage]:
    """The passages of pair `item` of a batch; `sounds`: its output, input and target window decoded, [P, 1, S] each."""
    return [_passage(blended, sounds, clock, (item, each)) for each in range(blended.output.shape[1])]


def rows(name: str, made: Sequence[Passage], strengths: Sequence[float]) -> list[dict[str, Any]]:
    """A row a passage, numbered from 1, in true seconds; `strengths` are those of the pair's two tonalities."""
    told = {"window_diversity": diversity(made), **dict(zip(("input_tonality", "target_tonality"), strengths))}
    return [{"pair": name, "passage": number, **each.row(), **told} for number, each in enumerate(made, 1)]


def write(folder: Path, name: str, clips: tuple[Array, Array], made: Sequence[Passage]) -> None:
    """Write WAVs of each passage and of its windows, and its picture: NAME-1.wav, NAME-1-input.wav ... NAME-1.png.

    clips: the whole input and target, float32 [1, samples]. Files of an earlier validation of that name are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seen = [glance(clip, made[0].sample_rate) for clip in clips]
    for number, each in enumerate(made):
        stem = f"{name}-{number + 1}"
        sounds = {"": each.output, "-input": each.input_window, "-target": each.target_window}
        for ending, samples in sounds.items():
            io.write(folder / f"{stem}{ending}.wav", samples, each.sample_rate, force=True)
        with replacing(folder / f"{stem}.png", force=True) as temporary:
            picture.draw(temporary, stem, (seen[0], seen[1]), made, number)


def write_rows(path: Path, found: Iterable[Row]) -> None:
    """Rows as CSV, whose first line names the columns; the file appears whole, and replaces an earlier one."""
    found = list(found)
    with replacing(path, force=True) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(found[0]) if found else [])
        writer.writeheader()
        writer.writerows(found)


def means(found: Sequence[Row]) -> dict[str, float]:
    """The mean of each column of numbers, and the share of passages that copy a source."""
    names = [name for name, value in found[0].items() if isinstance(value, float)] if found else []
    shares = {"copies": float(np.mean([bool(row["copies"]) for row in found]))} if found else {}
    return {**{name: float(np.mean([row[name] for row in found])) for name in names}, **shares}


def _passage(blended: Blended, sounds: Sequence[Tensor], clock: Timebase, place: tuple[int, int]) -> Passage:
    output, input_window, target_window = (_array(sound[place[1]]) for sound in sounds)
    windows, frames = blended.windows.chosen, blended.output.shape[-1]

    def span(starts: Tensor, ratios: Tensor) -> Span:
        return Span.of(float(starts[place]), float(ratios[place]), frames, clock)

    return Passage(
        output=output,
        input_window=input_window,
        target_window=target_window,
        input=span(windows.input_starts, windows.input_ratios),
        target=span(windows.target_starts, windows.target_ratios),
        components=_array(blended.components[place]),
        sample_rate=clock.sample_rate,
    )


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()
