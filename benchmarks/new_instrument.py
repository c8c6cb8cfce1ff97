"""Tells how often a lead instrument is heard in what models make of captions with it: before and after a fine-tuning.

    hemiola train musicgen --config configs/sketch-musicgen-instrument.yaml
    python benchmarks/new_instrument.py clarinet sketch out/sketch-new-instrument/checkpoint

Captions are of the test split, and the instrument leads every piece. The ears are those of `hemiola eval`; how
often they are right about the true music, as it is and through the codec of the first model, is told first.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable

from hemiola.codec.model import EncodecModel
from hemiola.generation import MusicGen
from hemiola.request import Request
from hemiola.synth.captions import describe
from hemiola.synth.plan import plan
from hemiola.synth.render import render
from hemiola.synth.score import Brief, Score
from hemiola.synth.seeds import split_seed, stream
from hemiola.train.listening import listen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lead")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--captions", type=int, default=50)
    parser.add_argument("--seconds", default="8")
    settings = parser.parse_args()
    seeds = [split_seed("test", index) for index in range(settings.captions)]
    brief = Brief(lead=settings.lead, frame_rate=50, strict=True)
    scores = [plan(seed, settings.seconds, brief) for seed in seeds]
    told("the true music", settings.lead, truths(scores, None))
    told("the true music through the codec", settings.lead, truths(scores, settings.models[0]))
    captions = [describe(score, stream(seed, "caption")) for score, seed in zip(scores, seeds)]
    for name in settings.models:
        told(name, settings.lead, made(name, captions, settings.seconds))


def told(name: str, lead: str, leads: Iterable[str]) -> None:
    """One line: the share that is heard with `lead`, and what is heard instead."""
    heard = Counter(leads)
    others = "".join(f", {other} {count}" for other, count in heard.most_common() if other != lead)
    print(f"{name}: {lead} in {heard[lead]} of {heard.total()}{others}", flush=True)


def truths(scores: list[Score], codec: str | None) -> Iterable[str]:
    """What leads in the true music."""
    model = codec and EncodecModel.from_pretrained(codec)
    for score in scores:
        audio = render(score, sample_rate=32000)
        yield listen(model.decode(model.encode(audio)) if model else audio, 32000).lead


def made(name: str, captions: list[str], seconds: str) -> Iterable[str]:
    """What leads in one piece of each caption."""
    model = MusicGen.from_pretrained(name)
    requests = [Request(caption, seconds, seed=seed) for seed, caption in enumerate(captions)]
    for start in range(0, len(requests), 10):
        for result in model.generate(requests[start : start + 10]):
            yield listen(result.audio.samples, result.audio.sample_rate).lead


if __name__ == "__main__":
    main()
