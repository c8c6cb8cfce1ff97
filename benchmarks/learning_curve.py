"""Draws what a model follows of its captions against training: one evaluation a checkpoint, one line a figure.

    python benchmarks/learning_curve.py out/kept/*.ckpt --like out/sketch-musicgen/checkpoint -o curve.png

Checkpoints are copies of a run's last.ckpt, taken while it trained, or folders that hold a whole model. Runs that go on
from one another follow in the order given: where steps begin anew they are added to those before. `--like` names the
folder with the codec, the tokenizer and the shapes that a last.ckpt leaves out. Figures are those of `hemiola eval`;
chance is dotted, at the last checkpoint. Beside the picture, a .json holds every figure.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure as Picture

from hemiola.generation import MusicGen
from hemiola.musicgen.checkpoint_torch import load_parts, save
from hemiola.musicgen.sampling import Sampling
from hemiola.musicgen.tokenizer import FILE as TOKENIZER
from hemiola.request import Request
from hemiola.train import checkpoints, evaluate

DRAWN = {
    "tempo_within_4_percent": "tempo within 4 %",
    "tempo_within_8_percent": "tempo within 8 %",
    "drums": "drums",
    "key_and_mode": "key and mode",
    "mode": "mode",
    "instrument": "instrument",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--like", type=Path, help="a model folder of the same run")
    parser.add_argument("--captions", type=int, default=50)
    parser.add_argument("--seconds", default="8")
    parser.add_argument("--seconds-a-step", type=float, help="draw against minutes of training, at this speed")
    parser.add_argument("-o", "--output", type=Path, default=Path("curve.png"))
    settings = parser.parse_args()
    trials = evaluate.held_out(settings.captions, settings.seconds)
    points, before, last = [], 0, 0
    for path in settings.checkpoints:
        step, music = loaded(path, settings.like)
        if step < last:  # the next run began to count anew
            before += last
        last = step
        figures = figures_of(music, trials, settings.seconds)
        points.append({"checkpoint": str(path), "steps": before + step, "figures": figures})
        print(before + step, {name: figures[name]["share"] for name in DRAWN}, flush=True)
    settings.output.with_suffix(".json").write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
    drawn(points, settings.seconds_a_step).savefig(settings.output, dpi=120)


def loaded(path: Path, like: Path | None) -> tuple[int, MusicGen]:
    """A checkpoint of a training, or the folder of a model (0 steps): its steps and the model."""
    if path.is_dir():
        return 0, MusicGen.from_pretrained(path)
    if like is None:
        raise SystemExit(f"{path} holds no codec and no tokenizer: name a model folder of its run with --like")
    kept = torch.load(path, map_location="cpu", weights_only=True)
    text_encoder, decoder = load_parts(like)
    for name, module in (("text_encoder.", text_encoder), ("decoder.", decoder)):
        state = kept["state_dict"]
        module.load_state_dict({key.removeprefix(name): state[key] for key in state if key.startswith(name)})
    with tempfile.TemporaryDirectory() as folder:
        codec = MusicGen.from_pretrained(like, backend="torch").model.codec.network
        save(folder, text_encoder, decoder, codec, like / TOKENIZER, recommended=Sampling.from_folder(like))
        return checkpoints.steps(checkpoints.progress(path)), MusicGen.from_pretrained(folder)


def figures_of(music: MusicGen, trials: list[evaluate.Trial], seconds: str) -> dict[str, dict]:
    """Every figure of one model; the true music is not listened to again, so none has a ceiling."""

    def make(some: list[evaluate.Trial]) -> list:
        requests = [Request(trial.caption, seconds, 0, variation=trial.index) for trial in some]
        return [result.audio.samples for result in music.generate(requests)]

    heard = evaluate.listen_to(trials, make, music.sampling_rate)
    figures = evaluate.figures(trials, heard, heard)
    return {name: {**figure.to_dict(), "ceiling": None} for name, figure in figures.items()}


def drawn(points: list[dict], seconds_a_step: float | None) -> Picture:
    """Shares against steps, or minutes where a step's time is known."""
    picture = Picture(figsize=(7, 4.2), layout="constrained")
    axes = picture.add_subplot()
    scale = seconds_a_step / 60 if seconds_a_step else 1
    places = [point["steps"] * scale for point in points]
    for name, label in DRAWN.items():
        (line,) = axes.plot(
            places, [100 * point["figures"][name]["share"] for point in points], marker="o", label=label
        )
        axes.axhline(100 * points[-1]["figures"][name]["chance"], color=line.get_color(), linestyle=":", linewidth=1)
    axes.set(ylim=(0, 101), ylabel="held-out captions followed, %")
    axes.set_xlabel("minutes of training" if seconds_a_step else "steps of training")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return picture


if __name__ == "__main__":
    main()
