"""The tables that `hemiola eval` shows: each figure with chance and the true music beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hemiola.cli import screen

if TYPE_CHECKING:
    from hemiola.train.evaluate import Figure
    from hemiola.train.resynthesis import Resynthesis

MUSIC_ROWS = {
    "tempo_within_8_percent": "tempo within 8 %, or its octave",
    "tempo_within_4_percent": "tempo within 4 %, or its octave",
    "tempo_within_8_percent_no_octaves": "tempo within 8 %, strictly",
    "tempo_within_4_percent_no_octaves": "tempo within 4 %, strictly",
    "drums": "drums or none, as asked",
    "drums_where_asked_for": "  drums where asked for",
    "no_drums_where_refused": "  none where refused",
    "key_and_mode": "key and mode",
    "mode": "mode",
    "instrument": "lead instrument",
    "silent": "silent for a quarter or more",
    "clipped": "clipped",
}
CODEC_ROWS = {
    "chroma_correlation": "chroma correlation",
    "codec_onsets": "onsets against the truth, F1 at 50 ms",
    "same_onsets": "onsets against the original's, F1",
    "si_sdr_db": "SI-SDR, dB",
    "mel_distance": "mel distance",
    "treble_db": "level from 4 kHz up, dB",
    "tempo_within_4_percent": "still heard: tempo within 4 %",
    "drums": "still heard: drums or none",
    "key_and_mode": "still heard: key and mode",
    "mode": "still heard: mode",
    "instrument": "still heard: lead instrument",
}
CLAP_ROWS = {"clap_score": "CLAP score", "fad": "FAD to the true music, on CLAP"}


def music(figures: Mapping[str, Figure]) -> None:
    """How many pieces were right in each figure, beside chance and the true music."""
    rows = []
    for name, label in MUSIC_ROWS.items():
        values = figures[name].to_dict()
        low, high = values["interval"] or (None, None)
        shares = (_percent(values["share"]), f"{_percent(low)} to {_percent(high)}")
        counted = f"{values['right']} of {values['count']}"
        rows.append((label, counted, *shares, _percent(values["chance"]), _percent(values["ceiling"])))
    screen.table(("music", "pieces", "share", "95 % interval", "chance", "true music"), rows)


def codec(measured: Resynthesis) -> None:
    """What a codec kept, beside chance, the true music, noise and Opus."""
    ceilings = {"codec_onsets": measured.means["true_onsets"], "chroma_correlation": 1.0, "same_onsets": 1.0}
    rows = [
        (label, _number(measured.means[name]), _number(measured.chance.get(name)), _number(ceilings.get(name)))
        for name, label in CODEC_ROWS.items()
    ]
    rows += [
        (f"{CODEC_ROWS[name]}, of white noise", _number(value), "-", "-") for name, value in measured.noise.items()
    ]
    rows += [
        (f"{label}, of Opus at {measured.opus['kilobits_a_second']:.1f} kbps", _number(measured.opus[name]), "-", "-")
        for name, label in CODEC_ROWS.items()
        if measured.opus and name in measured.opus
    ]
    if measured.opus is None:
        screen.note("Opus is left out: this libsndfile cannot write it; the soundfile from PyPI brings one that can")
    screen.table((f"codec at {measured.kilobits_a_second:.1f} kbps", "mean", "chance", "true music"), rows)


def clap(values: Mapping[str, float | None]) -> None:
    """What a CLAP model finds, from `train.clap.scores`."""
    rows = [
        (label, *(_number(values.get(f"{name}{beside}")) for beside in ("", "_by_chance", "_of_true_music")))
        for name, label in CLAP_ROWS.items()
    ]
    screen.table(("by CLAP", "value", "chance", "true music"), rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
