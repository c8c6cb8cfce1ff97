"""The picture of a sound: waveform, mel spectrogram and chroma over one axis of time, as a PNG."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemiola.audio.overview import MELS, PITCHES, Overview, mel_bands, mel_of
from hemiola.errors import BackendError

EXTRA = "inspect"
INCHES, DPI = (12, 8), 120
LONGEST_TITLE = 80  # characters
MOST_NAMED = 8  # channels whose names have room
FLOOR_DB = -80.0  # of the mel spectrogram, below its loudest
SILENT_DB = -60.0  # below the loudest column, a column has no pitch
TICKS_HZ = (200, 500, 1000, 2000, 5000, 10_000, 20_000, 40_000)
MEL_LABEL = "dB below the loudest"
INK, PALE = "#1f3b57", "#9db4c8"


def require_matplotlib() -> None:
    """Raise BackendError, with what to install, when pictures cannot be drawn."""
    try:
        # Nothing is used here: it is only whether it can be.
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BackendError(f"drawing needs matplotlib: pip install 'hemiola[{EXTRA}]'") from error


def draw(overview: Overview, path: Path, title: str, facts: str) -> None:
    """Write the picture as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    heights = [1.5, 3, 2]
    axes = figure.subplots(3, 2, sharex="col", width_ratios=[60, 1], height_ratios=heights, squeeze=False)
    axes[0, 1].set_axis_off()
    _draw_waveform(axes[0, 0], overview)
    figure.colorbar(draw_mel(axes[1, 0], overview), cax=axes[1, 1], label=MEL_LABEL)
    _draw_chroma(figure, axes[2, 0], axes[2, 1], overview)
    _set_time(axes[2, 0], float(overview.seconds))
    headline(axes[0, 0], title, facts)
    save(figure, path)


def headline(axes: Any, title: str, facts: str) -> None:
    """A title over the topmost axes, and a line of facts below it."""
    # The line below the title is kept free for the facts.
    axes.set_title(f"{_fitted(title)}\n", fontsize=14, fontweight="bold", loc="left", parse_math=False)
    axes.annotate(facts, (0, 1), (0, 6), "axes fraction", "offset points", color="0.35")


def save(figure: Any, path: Path) -> None:
    """Write a figure as a PNG."""
    with warnings.catch_warnings():
        # A name may be in letters that the font does not have; they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, format="png")


def _draw_waveform(axes: Any, overview: Overview) -> None:
    """The channels one above the other, in lanes as high as full scale, or as the peak where that is beyond it."""
    times, channels, height = edges(overview), overview.channels, max(1.0, overview.peak)
    middles = [2 * height * (channels - 1 - channel) for channel in range(channels)]
    for channel, middle in enumerate(middles):
        lows, highs = (np.append(each[channel], each[channel][-1]) for each in (overview.lows, overview.highs))
        axes.fill_between(times, middle + lows, middle + highs, step="post", color=INK, linewidth=0.4, edgecolor=INK)
        axes.axhline(middle, color=PALE, linewidth=0.5)
    for middle in middles[1:]:
        axes.axhline(middle + height, color="0.6", linewidth=0.6)
    axes.set_ylim(-1.05 * height, middles[0] + 1.05 * height)
    axes.set_ylabel("amplitude")
    if channels > 1:
        names = ["left", "right"] if channels == 2 else [str(number + 1) for number in range(channels)]
        axes.set_yticks(middles, names if channels <= MOST_NAMED else [""] * channels)


def draw_mel(axes: Any, overview: Overview, loudest: float | None = None) -> Any:
    """The mel spectrogram, in dB below `loudest` (a power; that of the sound itself); returns what is on the scale."""
    loudest = max(float(overview.mel.max()) if loudest is None else loudest, 1e-20)
    with np.errstate(divide="ignore"):
        levels = np.maximum(10 * np.log10(overview.mel / loudest), FLOOR_DB)
    extent = (0, edges(overview)[-1], 0, MELS)
    image = axes.imshow(
        levels,
        origin="lower",
        aspect="auto",
        extent=extent,
        cmap="magma",
        vmin=FLOOR_DB,
        vmax=0,
        interpolation="nearest",
    )
    bands = mel_of(mel_bands(overview.sample_rate))
    shown = [hz for hz in TICKS_HZ if bands[1] <= mel_of(hz) <= bands[-2]]
    # Band i is drawn from i to i + 1, and has its peak in the middle of that.
    places = [np.interp(mel_of(hz), bands[1:-1], np.arange(MELS) + 0.5) for hz in shown]
    axes.set_yticks(places, [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in shown])
    axes.set_ylabel("frequency (Hz), mel scale")
    return image


def _draw_chroma(figure: Any, axes: Any, scale: Any, overview: Overview) -> None:
    amplitudes = np.sqrt(overview.chroma)
    strengths = amplitudes.max(axis=0, keepdims=True)
    heard = strengths > max(float(strengths.max()), 1e-20) * 10 ** (SILENT_DB / 20)
    shares = np.where(heard, amplitudes / np.where(heard, strengths, 1), 0)
    extent = (0, edges(overview)[-1], 0, len(PITCHES))
    image = axes.imshow(
        shares, origin="lower", aspect="auto", extent=extent, cmap="viridis", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.set_yticks(np.arange(len(PITCHES)) + 0.5, PITCHES)
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("pitch class")
    figure.colorbar(image, cax=scale, label="share of the strongest")


def _set_time(axes: Any, seconds: float) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    axes.set_xlim(0, seconds)
    if seconds < 120:
        axes.set_xlabel("time (s)")
        return
    hours = seconds >= 7200
    axes.set_xlabel("time (h:min)" if hours else "time (min:s)")
    unit = 60 if hours else 1
    step = next(each for each in (15, 30, 60, 120, 300, 600, 1800, 3600, 7200) if seconds / unit / each <= 12)
    axes.xaxis.set_major_locator(MultipleLocator(step * unit))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{int(t // unit) // 60}:{int(t // unit) % 60:02d}"))


def edges(overview: Overview) -> NDArray[np.float64]:
    """Where columns begin, in seconds, and where the last would end."""
    column = overview.column_samples / overview.sample_rate
    return np.arange(overview.lows.shape[1] + 1) * column


def _fitted(title: str) -> str:
    """A title that fits and can be drawn: a path may hold bytes that are no text."""
    text = title.encode(errors="replace").decode()
    return text if len(text) <= LONGEST_TITLE else f"{text[: LONGEST_TITLE - 1]}…"
