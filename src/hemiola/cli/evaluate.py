"""`hemiola eval`: what a model makes of captions that it has never seen, and what its codec keeps of music."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from hemiola.cli import options, screen
from hemiola.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from hemiola.backend import Backend
    from hemiola.codec.model import EncodecModel
    from hemiola.generation import MusicGen
    from hemiola.train.evaluate import Figure, Trial
    from hemiola.train.resynthesis import Resynthesis
    from hemiola.weights.hub import Checkpoint

# Pieces decoded side by side.
TOGETHER = 10
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
    "silent": "silent for a quarter or more",
    "clipped": "clipped",
}
CODEC_ROWS = {
    "chroma_correlation": "chroma correlation",
    "codec_onsets": "onsets against the truth, F1 at 50 ms",
    "same_onsets": "onsets against the original's, F1",
    "si_sdr_db": "SI-SDR, dB",
    "mel_distance": "mel distance",
    "tempo_within_4_percent": "still heard: tempo within 4 %",
    "drums": "still heard: drums or none",
    "key_and_mode": "still heard: key and mode",
    "mode": "still heard: mode",
}


def evaluate(
    model: Annotated[str, Option(help=options.MODEL_HELP)] = "sketch",
    captions: Annotated[int, Option(min=0, help="Held-out captions to make music for; 0: only the codec.")] = 50,
    pieces: Annotated[int, Option(min=0, help="Held-out pieces through the codec; 0: none.")] = 20,
    seconds: Annotated[str, Option(help="Length of each piece.")] = "8",
    seed: Annotated[int, Option(min=0, help="Seed of the music made.")] = 0,
    guidance: Annotated[float | None, Option(help="Weight of the prompt; 1: none. [default: 3.0]")] = None,
    top_k: Annotated[int | None, Option(help="Likeliest tokens kept; 0: all. [default: 250]")] = None,
    temperature: Annotated[float | None, Option(help="0: always the likeliest. [default: 1.0]")] = None,
    output: Annotated[Path | None, Option("-o", "--output", help="A .json for every figure and piece.")] = None,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Measure a model on synthetic music that no training has seen.

    Tempo, drums, key and mode are judged where a caption states them, beside what chance would give and what the same
    ears find in the true music. The folder of a codec alone is measured as a codec.
    """
    from hemiola import backend as backends
    from hemiola.audio import writing
    from hemiola.cli import checkpoints

    if output is not None:
        writing.check_place(output, force=force)
    asked = {"guidance": guidance, "top_k": top_k, "temperature": temperature}
    settings = {name: value for name, value in asked.items() if value is not None}
    if not captions and not pieces:
        raise InputError("nothing to measure: give --captions or --pieces a number above 0")
    checkpoint = checkpoints.found(model, allow_pickle)
    choice = backends.choose(backend, device, "float32")
    began = time.perf_counter()
    music, codec = _loaded(checkpoint, choice, allow_pickle)
    trials = _Trials(captions if music else 0, seconds, seed, settings)
    report = _facts(checkpoint, choice, trials, pieces)
    if music is not None and captions:
        report |= _music(music, trials)
    if pieces:
        report["codec"] = _codec(codec, pieces, seconds)
    report["took_seconds"] = round(time.perf_counter() - began, 1)
    if output is not None:
        with writing.replacing(output, force=force) as temporary:
            temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        screen.written(output)


@dataclass(frozen=True)
class _Trials:
    """How much music to make, and how."""

    captions: int
    seconds: str
    seed: int
    settings: dict[str, Any]

    def requests(self, trials: Sequence[Trial]) -> list[Any]:
        from hemiola.request import Request

        return [
            Request(trial.caption, self.seconds, self.seed, variation=trial.index, **self.settings) for trial in trials
        ]


def _loaded(checkpoint: Checkpoint, choice: Backend, allow_pickle: bool) -> tuple[MusicGen | None, EncodecModel]:
    """The model and its codec; a codec alone is no model."""
    from hemiola.codec.model import EncodecModel
    from hemiola.generation import MusicGen
    from hemiola.weights import hub

    machine: dict[str, Any] = {"backend": choice.name, "device": choice.device, "allow_pickle": allow_pickle}
    config = json.loads((checkpoint.folder / hub.CONFIG).read_text(encoding="utf-8"))
    if "audio_encoder" not in config:
        return None, EncodecModel.from_pretrained(checkpoint.folder, **machine)
    music = MusicGen.from_pretrained(checkpoint.folder, **machine)
    return music, music.model.codec


def _music(music: MusicGen, wanted: _Trials) -> dict[str, Any]:
    from hemiola.train import evaluate as evaluation

    trials = evaluation.held_out(wanted.captions, wanted.seconds)
    rate = music.sampling_rate

    def make(some: Sequence[Trial]) -> list[np.ndarray]:
        return [result.audio.samples for result in music.generate(wanted.requests(some))]

    with screen.phase_bars() as bars:
        progress = partial(bars, "making music")
        heard = evaluation.listen_to_model(trials, make, rate, batch=TOGETHER, progress=progress)
        progress = partial(bars, "listening to the true music")
        truth = evaluation.listen_to_truth(trials, wanted.seconds, rate, progress=progress)
    figures = evaluation.figures(trials, heard, truth)
    _show_figures(figures)
    return {
        "figures": {name: figure.to_dict() for name, figure in figures.items()},
        "pieces": evaluation.rows(trials, heard, truth),
    }


def _codec(codec: EncodecModel, pieces: int, seconds: str) -> dict[str, Any]:
    from hemiola.train import resynthesis

    with screen.phase_bars() as bars:
        measured = resynthesis.measure(codec, pieces, seconds, progress=partial(bars, "through the codec"))
    _show_codec(measured)
    return measured.to_dict()


def _show_figures(figures: dict[str, Figure]) -> None:
    rows = []
    for name, label in MUSIC_ROWS.items():
        values = figures[name].to_dict()
        low, high = values["interval"] or (None, None)
        shares = (_percent(values["share"]), f"{_percent(low)} to {_percent(high)}")
        counted = f"{values['right']} of {values['count']}"
        rows.append((label, counted, *shares, _percent(values["chance"]), _percent(values["ceiling"])))
    _table(("music", "pieces", "share", "95 % interval", "chance", "true music"), rows)


def _show_codec(measured: Resynthesis) -> None:
    ceilings = {"codec_onsets": measured.means["true_onsets"], "chroma_correlation": 1.0, "same_onsets": 1.0}
    rows = [
        (label, _number(measured.means[name]), _number(measured.chance.get(name)), _number(ceilings.get(name)))
        for name, label in CODEC_ROWS.items()
    ]
    rows += [
        (f"{CODEC_ROWS[name]}, of white noise", _number(value), "-", "-") for name, value in measured.noise.items()
    ]
    _table((f"codec at {measured.kilobits_a_second:.1f} kbps", "mean", "chance", "true music"), rows)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(stderr=True, markup=False, highlight=False, width=100).print(table)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _facts(checkpoint: Checkpoint, choice: Backend, trials: _Trials, pieces: int) -> dict[str, Any]:
    """What was measured, and with what."""
    from hemiola.cli import checkpoints, records
    from hemiola.weights import keys

    model, revision = checkpoints.identity(checkpoint)
    digest = hashlib.sha256()
    for file in keys.files(checkpoint.folder, allow_pickle=True):
        digest.update(file.read_bytes())
    return {
        "model": model,
        "revision": revision,
        "weights_sha256": digest.hexdigest(),
        "backend": choice.name,
        "device": choice.device,
        "split": "test",
        "captions": trials.captions,
        "codec_pieces": pieces,
        "seconds": trials.seconds,
        "seed": trials.seed,
        "settings": trials.settings,
        "versions": records.versions(choice.name),
    }
