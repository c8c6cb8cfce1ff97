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

from hemiola.cli import options, screen, tables
from hemiola.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from hemiola.backend import Backend
    from hemiola.codec.model import EncodecModel
    from hemiola.generation import MusicGen
    from hemiola.train.clap import Clap
    from hemiola.train.evaluate import Trial
    from hemiola.weights.hub import Checkpoint

# Pieces decoded side by side.
TOGETHER = 10


def evaluate(
    model: Annotated[str, Option(help=options.MODEL_HELP)] = "sketch",
    captions: Annotated[int, Option(min=0, help="Held-out captions to make music for; 0: only the codec.")] = 50,
    pieces: Annotated[int, Option(min=0, help="Held-out pieces through the codec; 0: none.")] = 20,
    seconds: Annotated[str, Option(help="Length of each piece.")] = "8",
    seed: Annotated[int, Option(min=0, help="Seed of the music made.")] = 0,
    guidance: Annotated[float | None, Option(help="Weight of the prompt; 1: none. [default: the model's]")] = None,
    top_k: Annotated[int | None, Option(help="Likeliest tokens kept; 0: all. [default: the model's]")] = None,
    temperature: Annotated[float | None, Option(help="0: always the likeliest. [default: the model's]")] = None,
    clap: Annotated[
        str | None,
        Option(metavar="MODEL", help="CLAP score and FAD by this model: laion/larger_clap_music, or a folder."),
    ] = None,
    output: Annotated[Path | None, Option("-o", "--output", help="A .json for every figure and piece.")] = None,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Measure a model on synthetic music that no training has seen.

    Tempo, drums, key, mode and instrument are judged where a caption states them, beside what chance gives and what
    the same ears find in the true music. The folder of a codec alone is measured as a codec, beside Opus.
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
    judge = _clap(clap)
    checkpoint = checkpoints.found(model, allow_pickle)
    choice = backends.choose(backend, device, "float32")
    began = time.perf_counter()
    music, codec = _loaded(checkpoint, choice, allow_pickle)
    trials = _Trials(captions if music else 0, seconds, seed, settings)
    report = _facts(checkpoint, choice, trials, pieces)
    screen.note(f"{report['model']}: weights {report['weights_sha256'][:16]} in {report['folder']}")
    if music is not None and captions:
        report |= _music(music, trials, judge)
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


def _clap(name: str | None) -> Clap | None:
    if name is None:
        return None
    from hemiola.train.clap import Clap

    return Clap.from_pretrained(name)


def _music(music: MusicGen, wanted: _Trials, judge: Clap | None) -> dict[str, Any]:
    from hemiola.train import evaluate as evaluation

    trials = evaluation.held_out(wanted.captions, wanted.seconds)
    rate = music.sampling_rate

    def make(some: Sequence[Trial]) -> list[np.ndarray]:
        return [result.audio.samples for result in music.generate(wanted.requests(some))]

    def play(some: Sequence[Trial]) -> list[np.ndarray]:
        return [evaluation.true_music(trial.seed, wanted.seconds, rate)[1] for trial in some]

    makers = _judged(judge, (make, play), rate)
    with screen.phase_bars() as bars:
        heard, truth = (
            evaluation.listen_to(trials, each, rate, batch=TOGETHER, progress=partial(bars, phase))
            for each, phase in zip(makers, ("making music", "listening to the true music"))
        )
    figures = evaluation.figures(trials, heard, truth)
    tables.music(figures)
    report = {
        "figures": {name: figure.to_dict() for name, figure in figures.items()},
        "pieces": evaluation.rows(trials, heard, truth),
    }
    return report | ({"clap": _fits(judge, trials, makers)} if judge else {})


def _judged(judge: Clap | None, makers: Sequence[Any], sample_rate: int) -> list[Any]:
    """The makers of music, their pieces embedded on the way where there is a judge."""
    if judge is None:
        return list(makers)
    from hemiola.train.clap import Embedded

    return [Embedded(make, judge, sample_rate) for make in makers]


def _fits(judge: Clap, trials: Sequence[Trial], makers: Sequence[Any]) -> dict[str, Any]:
    from hemiola.train import clap

    text = judge.of_text([trial.caption for trial in trials])
    values = clap.scores(text, makers[0].embeddings, makers[1].embeddings)
    tables.clap(values)
    return values


def _codec(codec: EncodecModel, pieces: int, seconds: str) -> dict[str, Any]:
    from hemiola.train import resynthesis

    with screen.phase_bars() as bars:
        measured = resynthesis.measure(codec, pieces, seconds, progress=partial(bars, "through the codec"))
    tables.codec(measured)
    return measured.to_dict()


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
        "folder": str(checkpoint.folder.resolve()),
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
