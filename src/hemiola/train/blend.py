"""Training a blend: what it composes is decoded, and compared with the very windows that it was made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning as L
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hemiola.blend.config import BlendConfig
from hemiola.blend.network_torch import Blended, BlendNetwork, save
from hemiola.codec.encodec_torch import Encodec
from hemiola.errors import InputError
from hemiola.timebase import Timebase
from hemiola.train import blend_losses, losses
from hemiola.train.blend_losses import BLEND_LOSSES, DEFAULT_WEIGHTS, Scene
from hemiola.train.discriminators import LatentDiscriminator

BYTES_AT_ONCE = 8 * 2**20  # of the decoder's widest layer
REFERENCES = ("window", "center")


@dataclass(frozen=True)
class BlendRecipe:
    """What a blend is trained with.

    Attributes:
        losses: weight by name; those not named keep their default, and a weight of 0 is not computed.
        learning_rate, weight_decay, gradient_clip: of AdamW, for everything but the selector's rate.
        selector_learning_rate: the selector has few parameters, and they have a long way to go.
        discriminator_learning_rate: of AdamW, for the discriminator.
        decode_seconds: of each window so much is decoded, at a place drawn for each pair; None decodes all of it.
        reference: "window": compare with the windows themselves, as the frozen decoder plays them; "center": with the
            samples in the middle of the clips, as an earlier system did, for comparison only. It is wrong: an output is
            made of windows that lie elsewhere and were read at another tempo, so that moment j of one and moment j of
            the other have nothing to do with each other, and even a perfect copy of a window is punished for it.
        seed: of all that is drawn.
    """

    losses: Mapping[str, float] = field(default_factory=dict)
    learning_rate: float = 1e-4
    selector_learning_rate: float = 1e-2
    discriminator_learning_rate: float = 1e-4
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    decode_seconds: float | None = 1.0
    reference: str = "window"
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.losses) - set(BLEND_LOSSES))
        if unknown:
            raise InputError(f"unknown loss {unknown[0]}: known are {', '.join(BLEND_LOSSES)}")
        if self.reference not in REFERENCES:
            raise InputError(f"recipe.reference must be one of {', '.join(REFERENCES)}, not '{self.reference}'")
        if self.decode_seconds is not None and not self.decode_seconds >= 0.25:
            raise InputError(f"recipe.decode_seconds must be at least 0.25, not {self.decode_seconds}")
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in ("learning_rate", "selector_learning_rate", "discriminator_learning_rate", "gradient_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"recipe.{name} must be more than 0, not {getattr(self, name)}")
        weights = {f"losses.{name}": weight for name, weight in self.losses.items()}
        for name, value in {"weight_decay": self.weight_decay, **weights}.items():
            if not 0 <= value < math.inf:
                raise InputError(f"recipe.{name} must be at least 0, not {value}")
        if not any(self.weights.values()):
            raise InputError("recipe.losses: every weight is 0, which leaves nothing to learn")

    @property
    def weights(self) -> dict[str, float]:
        """Every loss by name with its weight."""
        return {**DEFAULT_WEIGHTS, **self.losses}


class BlendTraining(L.LightningModule):
    """Batches hold latents: `input`, `target` [B, D, T], `real` [B, D, F] of other tracks, and `item` [B].

    With `reference: center` also samples: `input_audio` and `target_audio` [B, 1, S].
    """

    def __init__(self, network: BlendNetwork, codec: Encodec, recipe: BlendRecipe) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network, self.recipe = network, recipe
        # Not a part of what is trained and saved: it is the codec's own checkpoint that counts.
        self.frozen = Frozen(codec)
        self.clock: Timebase = codec.config.timebase
        self.weights = recipe.weights
        self.discriminator = _discriminator(network.config) if self.weights["adversarial"] else None

    def on_fit_start(self) -> None:
        """The codec comes along to where the network is."""
        self.frozen.codec.to(self.device)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW for the network, where the selector has a rate of its own, and for the discriminator."""
        recipe = self.recipe
        selector = list(self.network.selector.parameters())
        chosen = {id(each) for each in selector}
        others = [each for each in self.network.parameters() if id(each) not in chosen]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": selector, "lr": recipe.selector_learning_rate}]
        found: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        ]
        if self.discriminator is not None:
            rate = recipe.discriminator_learning_rate
            judge = self.discriminator.parameters()
            found.append(torch.optim.AdamW(judge, lr=rate, weight_decay=recipe.weight_decay))
        return found

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """One update of the discriminator, where there is one, and one of the network."""
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        blended = self.network(batch["input"], batch["target"], self.network.noise(self.seeds(batch)))
        if self.discriminator is not None:
            doubt = self._doubt(batch["real"], blended.output.detach().flatten(0, 1))
            self._update(optimizers[1], doubt)
            self.log("train/discriminator", doubt.detach())
        terms = self.terms(blended, batch)
        total = self.total(terms)
        self._update(optimizers[0], total)
        found = {"loss": total, **terms}
        self.log_dict({f"train/{name}": term.detach() for name, term in found.items()})

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """The training's losses, of the windows that are the best; gives what was composed to whoever watches."""
        blended = self.network(batch["input"], batch["target"])
        terms = self.terms(blended, batch)
        found = {"valid/loss": self.total(terms), **{f"valid/{name}": term for name, term in terms.items()}}
        self.log_dict(found, sync_dist=True, batch_size=len(batch["item"]))
        return {"blended": blended}

    def terms(self, blended: Blended, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every loss that has a weight, by name."""
        return blend_losses.terms(self.scene(blended, batch), self.weights)

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum."""
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()

    def scene(self, blended: Blended, batch: Mapping[str, Tensor]) -> Scene:
        """What the losses look at: passages and windows as latents, and a crop of each as audio."""
        output, cut, other, components = (
            each.flatten(0, 1)
            for each in (blended.output, blended.input_window, blended.target_window, blended.components)
        )
        sounds = self._sounds([output, cut, other], batch)
        windows = blended.windows.chosen
        return Scene(
            output=output,
            input_window=cut,
            target_window=other,
            output_audio=sounds[0],
            input_audio=sounds[1],
            target_audio=sounds[2],
            components=components,
            input_ratios=windows.input_ratios,
            target_ratios=windows.target_ratios,
            latent_scale=self.network.latent_spread.square().mean(),
            logits=None if self.discriminator is None else self._judge(output),
            sample_rate=self.clock.sample_rate,
            choice_weights=blended.windows.weights,
            choice_distances=blended.windows.distances,
        )

    def seeds(self, batch: Mapping[str, Tensor]) -> Sequence[int]:
        """A seed for each item of a batch, whichever rank it is on."""
        return [self.recipe.seed * 1_000_003 + int(item) for item in batch["item"]]

    def export(self, folder: Path) -> None:
        """Write the network as a checkpoint folder."""
        save(self.network, folder)

    def _sounds(self, latents: Sequence[Tensor], batch: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Audio [N, 1, S] of the output and of its references, whose latents [N, D, F] are given: one crop of each."""
        firsts = self._crop(batch)
        if self.recipe.reference == "window":
            # In one pass of the decoder.
            return self._sound(torch.cat([self._part(each, firsts) for each in latents])).chunk(3)
        sources = (batch[name] for name in ("input_audio", "target_audio"))
        middles = [each.repeat_interleave(self.network.config.pairs, 0) for each in sources]
        return [
            self._sound(self._part(latents[0], firsts)),
            *(self._part(each, firsts, self.clock.hop) for each in middles),
        ]

    def _crop(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """First frames [N] of what is decoded, or None where it is all; the passages of a pair share one."""
        if self.recipe.decode_seconds is None:
            return None
        last = self.network.config.output_frames - self._crop_frames
        draws = (torch.Generator().manual_seed(seed) for seed in self.seeds(batch))
        firsts = torch.cat([torch.randint(last + 1, (1,), generator=draw) for draw in draws])
        return firsts.repeat_interleave(self.network.config.pairs).to(batch["input"].device)

    @property
    def _crop_frames(self) -> int:
        clock, config = self.clock, self.network.config
        return min(config.output_frames, clock.frames(clock.samples(str(self.recipe.decode_seconds))))

    def _part(self, whole: Tensor, firsts: Tensor | None, each: int = 1) -> Tensor:
        """The crops of [N, channels, F * each], from frames `firsts` [N] on, where a frame is so many columns."""
        if firsts is None:
            return whole
        columns = each * firsts[:, None] + torch.arange(each * self._crop_frames, device=firsts.device)
        return whole.gather(2, columns[:, None, :].expand(-1, whole.shape[1], -1))

    def _sound(self, latents: Tensor) -> Tensor:
        """Latents [N, D, f] -> audio, a few rows at a time; what the decoder did in between is worked out once more.

        All at once would keep every layer of every row, which takes gigabytes and, on a CPU, more time than it saves.
        """
        config = self.frozen.codec.config
        row = 4 * config.num_filters * self.clock.samples_of(latents.shape[-1])
        pieces = latents.split(max(1, BYTES_AT_ONCE // row))
        decode = self.frozen.codec.synthesize
        return torch.cat([checkpoint(decode, piece, use_reentrant=False) for piece in pieces])

    def _doubt(self, real: Tensor, fake: Tensor) -> Tensor:
        return losses.hinge_discriminator([self._judge(real)], [self._judge(fake)])

    def _judge(self, latents: Tensor) -> Tensor:
        return cast(LatentDiscriminator, self.discriminator)(self.network.even(latents))

    def _update(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=self.recipe.gradient_clip, gradient_clip_algorithm="norm")
        optimizer.step()


def _discriminator(config: BlendConfig) -> LatentDiscriminator:
    """As wide as the composer."""
    width = config.dimensions.width
    return LatentDiscriminator(config.latent_dim, (width // 2, width, width, width // 2))


class Frozen(NamedTuple):
    """Holds a codec where Lightning and DDP do not take it for a part of the model."""

    codec: Encodec
