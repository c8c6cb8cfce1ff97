"""The picture of a passage: where its windows lie in both clips, and how it sounds beside them, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hemiola.audio.overview import Overview
from hemiola.audio.picture import DPI, INK, MEL_LABEL, PALE, draw_mel, edges, headline, save
from hemiola.blend.passage import Passage, Span
from hemiola.blend.scores import COMPONENTS

INCHES = (12, 13)
SMOOTH = 5  # columns, 50 ms of a passage: over less, the envelope of a bass note is its wave
INPUT, TARGET = "#1f77b4", "#d9730d"
# Three shades a source: rhythm, harmony, timbre.
SHADES = ("#10456b", "#1f77b4", "#8fc1e3", "#8a4504", "#d9730d", "#f6c08f")
HEIGHTS = (1.3, 1.3, 1.3, 2, 2, 2, 1.3)


def draw(path: Path, title: str, clips: tuple[Overview, Overview], passages: Sequence[Passage], number: int) -> None:
    """Write the picture of passage `number` (from 0) of those that were made of two clips."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(len(HEIGHTS), 2, width_ratios=[60, 1], height_ratios=HEIGHTS)
    input_clip, target_clip, levels, *mels, weights = (figure.add_subplot(grid[row, 0]) for row in range(len(HEIGHTS)))
    passage = passages[number]
    _draw_clip(input_clip, "input", clips[0], [each.input for each in passages], number, INPUT)
    _draw_clip(target_clip, "target", clips[1], [each.target for each in passages], number, TARGET)
    target_clip.set_xlabel("time in the clip (s)")
    _draw_levels(levels, passage)
    image = _draw_mels(mels, passage)
    figure.colorbar(image, cax=figure.add_subplot(grid[3:6, 1]), label=MEL_LABEL)
    _draw_weights(weights, passage)
    for axes in (levels, *mels, weights):
        axes.set_xlim(0, float(passage.overviews[1].seconds))
    weights.set_xlabel("time in the passage (s)")
    headline(input_clip, title, _facts(passage))
    save(figure, path)


def _draw_clip(axes: Any, name: str, clip: Overview, spans: Sequence[Span], number: int, colour: str) -> None:
    """A clip's RMS envelope, the window's part of it in colour, and below it a bar for each passage's window."""
    times, envelope = edges(clip), _stepped(clip)
    height = max(float(envelope.max()), 1e-6)
    span = spans[number]
    axes.fill_between(times, envelope, step="post", color=PALE, linewidth=0)
    inside = (times >= span.start_seconds) & (times <= span.end_seconds)
    axes.fill_between(times, envelope, where=inside, step="post", color=colour, linewidth=0)
    for place, each in enumerate(spans):
        level = -(0.16 + 0.17 * place) * height
        chosen = place == number
        bar = {"color": colour if chosen else "0.6", "linewidth": 4 if chosen else 2, "solid_capstyle": "butt"}
        axes.plot([each.start_seconds, each.end_seconds], [level, level], **bar)
        middle = (each.start_seconds + each.end_seconds) / 2
        text = {"ha": "center", "va": "center", "fontsize": 8, "color": bar["color"]}
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(middle, level, f"{place + 1}", fontweight="bold" if chosen else "normal", bbox=behind, **text)
    axes.set_xlim(0, float(clip.seconds))
    axes.set_ylim(-(0.16 + 0.17 * len(spans)) * height, 1.05 * height)
    axes.set_yticks([0, height], ["0", f"{height:.2g}"])
    axes.set_ylabel(f"{name}\nRMS")


def _draw_levels(axes: Any, passage: Passage) -> None:
    lines = zip(passage.overviews, ("input window", "output", "target window"), (INPUT, INK, TARGET), strict=True)
    for overview, name, colour in lines:
        axes.step(edges(overview), _stepped(overview), where="post", color=colour, linewidth=1.2, label=name)
    axes.set_ylim(0)
    axes.set_ylabel("RMS")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=3, fontsize=8, frameon=False)


def _draw_mels(places: Sequence[Any], passage: Passage) -> Any:
    """The three spectrograms below each other, on one scale of loudness, which is returned."""
    loudest = max(float(overview.mel.max()) for overview in passage.overviews)
    for axes, overview, name in zip(places, passage.overviews, ("input window", "output", "target window")):
        image = draw_mel(axes, overview, loudest)
        axes.set_ylabel(f"{name}\nHz, mel scale")
        axes.tick_params(labelbottom=False)
    return image


def _draw_weights(axes: Any, passage: Passage) -> None:
    weights = passage.components
    times = (np.arange(weights.shape[1]) + 0.5) * float(passage.overviews[1].seconds) / weights.shape[1]
    names = [name.replace("_", " ") for name in COMPONENTS]
    axes.stackplot(times, weights, colors=SHADES, labels=names, linewidth=0)
    axes.set_ylim(0, 1)
    axes.set_ylabel("weight")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=6, fontsize=8, frameon=False)


def _facts(passage: Passage) -> str:
    spans = {"input": passage.input, "target": passage.target}
    facts = [
        f"{name} {span.start_seconds:.2f} to {span.end_seconds:.2f} s, ratio {span.ratio:.3f}, "
        f"copy score {passage.copy_scores[name]:.2f}"
        for name, span in spans.items()
    ]
    return "; ".join(facts)


def _stepped(overview: Overview) -> Any:
    """RMS over SMOOTH columns around each, the last value once more: there is one more edge than there are columns."""
    powers = np.pad(overview.envelope**2, SMOOTH // 2, mode="edge")
    levels = np.sqrt(np.convolve(powers, np.full(SMOOTH, 1 / SMOOTH), "valid"))
    return np.append(levels, levels[-1])
