"""What a training step of a blend costs: ours, and the loop of an earlier system that did the same.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/blend_step.py [--pairs 2] [--size tiny] [--rounds 2] [-o step.json]

Ours reads latents that were made once, and decodes crops of each passage and of its two windows in one pass, through
which the gradient goes. "whole windows" is ours without crops. The earlier loop encodes both clips of every pair at
every step, picks windows from clips pooled to 50 columns, and decodes three outputs and six reference windows whole,
10.67 s each, one after another. It cut the decoder from the graph, so its step has no backward pass through one; the
last row gives it that too, for the same gradients as ours. Sizes, losses, optimisers and batch are the same for all,
and so is the codec: the bundled one, or the published one's shape with random weights. They take turns, and the median
counts: wall clock, and CPU time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hemiola.bench.codec_torch import SIZES, lively
from hemiola.bench.contest import OURS, Outcome, contest, facts, ratios
from hemiola.blend.config import BlendConfig
from hemiola.blend.network_torch import BlendNetwork
from hemiola.codec.encodec_torch import Encodec
from hemiola.codec.model import EncodecModel
from hemiola.train.blend import BlendRecipe, BlendTraining

BUNDLED, PUBLISHED = "sketch-24khz", "24khz"
LATENTS, AUDIO = ("input", "target"), ("input_audio", "target_audio")
WHOLE, EARLIER, EARLIER_GRAPH = f"{OURS}, whole windows", "earlier loop", "earlier loop, decoder in the graph"
ASKED = ("codec", "size", "pairs", "decode_seconds", "rounds")


class Alone(BlendTraining):
    """A blend training whose step runs by itself: what a trainer would do around it is done here."""

    def __init__(self, network: BlendNetwork, codec: Encodec, recipe: BlendRecipe) -> None:
        super().__init__(network, codec, recipe)
        self.taken = self.configure_optimizers()

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        return self.taken

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()

    def clip_gradients(self, optimizer: Any, gradient_clip_val: Any = None, **kwargs: Any) -> None:
        groups = (group["params"] for group in optimizer.param_groups)
        torch.nn.utils.clip_grad_norm_([each for group in groups for each in group], gradient_clip_val)

    def log(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_dict(self, *args: Any, **kwargs: Any) -> None:
        pass


class Earlier(Alone):
    """The earlier system's loop: encodes at every step, decodes whole windows one after another."""

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        with torch.no_grad():
            made = {name: self.frozen.codec.latents(batch[sound]) for name, sound in zip(LATENTS, AUDIO)}
        super().training_step({**batch, **made}, batch_idx)

    def _sounds(self, latents: Sequence[Tensor], batch: Mapping[str, Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            return [torch.cat([self.frozen.codec.synthesize(row) for row in part.split(1)]) for part in latents]


class EarlierGraph(Earlier):
    """The same, with gradients through the decoder; layers are worked out again in the backward pass, as ours are."""

    def _sounds(self, latents: Sequence[Tensor], batch: Mapping[str, Tensor]) -> Sequence[Tensor]:
        return [torch.cat([self._sound(row) for row in part.split(1)]) for part in latents]


def codec_of(name: str) -> Encodec:
    """The codec, frozen: the bundled one, or one of the published shape with random weights."""
    if name == BUNDLED:
        network = EncodecModel.from_pretrained(name, backend="torch", device="cpu").network
    else:
        network = lively(SIZES[name])
    return network.eval().requires_grad_(False)


def batch_of(codec: Encodec, config: BlendConfig, pairs: int, seed: int) -> dict[str, Tensor]:
    """Noise with a slow swell as two clips for each pair, and their latents."""
    draw = torch.Generator().manual_seed(seed)
    samples = codec.config.timebase.samples_of(config.clip_frames)
    swell = 0.1 + 0.1 * torch.sin(torch.linspace(0, 40, samples))
    sounds = {name: swell * torch.randn(pairs, 1, samples, generator=draw) for name in AUDIO}
    with torch.no_grad():
        latents = {name: codec.latents(sounds[sound]) for name, sound in zip(LATENTS, AUDIO)}
    real = latents["target"].flip(0)[..., : config.output_frames]
    return {**sounds, **latents, "real": real, "item": torch.arange(pairs)}


def works(
    codec: Encodec, config: Mapping[str, Any], batch: Mapping[str, Tensor], decode_seconds: float
) -> dict[str, Callable[[], object]]:
    """A training step of each contender, of its own network, on the same batch."""
    # The earlier system had no loss on latents; one of so little work decides nothing.
    before: dict[str, Any] = {"losses": {"latent_match": 0}, "decode_seconds": None, "reference": "window"}
    kinds: dict[str, tuple[type[Alone], dict[str, Any], str]] = {
        OURS: (Alone, {"decode_seconds": decode_seconds}, "correlation"),
        WHOLE: (Alone, {"decode_seconds": None}, "correlation"),
        EARLIER: (Earlier, before, "pooled"),
        EARLIER_GRAPH: (EarlierGraph, before, "pooled"),
    }
    return {
        name: _step(kind, codec, {**config, "selector": selector}, recipe, batch)
        for name, (kind, recipe, selector) in kinds.items()
    }


def _step(
    kind: type[Alone], codec: Encodec, config: Mapping[str, Any], recipe: Mapping[str, Any], batch: Mapping[str, Tensor]
) -> Callable[[], object]:
    torch.manual_seed(0)
    network = BlendNetwork(BlendConfig(**config))
    clips = torch.cat([batch[name] for name in LATENTS])
    network.fit_latents(clips.mean((0, 2)), clips.std((0, 2)))
    module = kind(network, codec, BlendRecipe(**recipe)).train()
    return lambda: module.training_step(batch, 0)


class Clocked:
    """Work that keeps the CPU time of each turn: what to read where others use the machine, too."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.work, self.seconds = work, []

    def __call__(self) -> None:
        began = time.process_time()
        self.work()
        self.seconds.append(time.process_time() - began)


def measure(wanted: argparse.Namespace) -> dict[str, Any]:
    codec = codec_of(wanted.codec)
    config = {"codec": wanted.codec, "latent_dim": codec.config.hidden_size, "size": wanted.size}
    batch = batch_of(codec, BlendConfig(**config), wanted.pairs, seed=0)
    made = works(codec, config, batch, wanted.decode_seconds)
    contenders = {name: Clocked(made[name]) for name in wanted.only or made}
    walls = contest(contenders, wanted.rounds)
    # The first turn of each warms up, as it does for the contest.
    cpu = {name: Outcome(tuple(each.seconds[1:])) for name, each in contenders.items()}
    kinds = {"wall": walls, "cpu": cpu}
    return {
        **facts(("torch",), **{name: getattr(wanted, name) for name in ASKED}),
        "threads": torch.get_num_threads(),
        "seconds_per_step": {kind: rounded({n: each.median for n, each in of.items()}) for kind, of in kinds.items()},
        "times_as_fast": {kind: {n: rounded(each) for n, each in ratios(of).items()} for kind, of in kinds.items()},
    }


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2, help="pairs of clips a step")
    parser.add_argument("--size", default="tiny", choices=("tiny", "small", "base"), help="of the network")
    parser.add_argument("--codec", default=BUNDLED, choices=(BUNDLED, PUBLISHED), help="the second with random weights")
    default = BlendRecipe().decode_seconds
    parser.add_argument("--decode-seconds", type=float, default=default, help="that ours decodes of each window")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="contenders by name; all of them otherwise")
    parser.add_argument("-o", "--output", type=Path, help="a .json for the figures, too")
    wanted = parser.parse_args()
    text = json.dumps(measure(wanted), indent=2)
    print(text)
    if wanted.output:
        wanted.output.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
