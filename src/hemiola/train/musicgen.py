"""Training a MusicGen: text encoder and decoder together, cross-entropy over the places that hold a frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hemiola.errors import InputError
from hemiola.musicgen.decoder_torch import Decoder
from hemiola.musicgen.t5_torch import T5Encoder
from hemiola.train import averages, ranks
from hemiola.train.tokens import Noise

NUMBERS_ALIKE = 0.08  # how far apart, as a share, numbers are that begin with a correlation of 0.6


@dataclass(frozen=True)
class MusicgenRecipe:
    """What a language model over codebooks is trained with; `text_dropped` is what guidance needs.

    With `ema_decay` the result is the moving average of the weights. With `lora_rank` only matrices of that rank beside
    the decoder's learn (see lora.py), `lora_alpha` / rank times as strongly. With `muon` the layers' matrices learn by
    Muon (Jordan et al., 2024), in steps as large as AdamW's, which has the rest.

    With `history_own`, up to this share of the tokens before are what the model itself draws there, from the true ones
    before them (Mihaylova and Martins, 2019): once it writes alone it has nothing else. Costs a third more.
    """

    learning_rate: float = 1e-4
    final_share: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    warmup_steps: int = 500
    clip_norm: float = 1.0
    text_dropped: float = 0.1
    words_unknown: float = 0.02
    numbers_moved: float = 0.0
    history_hidden: float = 0.0
    history_own: float = 0.0
    ema_decay: float | None = None
    lora_rank: int = 0
    lora_alpha: float = 16.0
    muon: bool = False

    def __post_init__(self) -> None:
        averages.check(self.ema_decay)
        if self.lora_rank < 0:
            raise InputError(f"recipe.lora_rank must be at least 1, or 0 for none, not {self.lora_rank}")
        if not 0 <= self.history_own <= 1:
            raise InputError(f"recipe.history_own must be a share from 0 to 1, not {self.history_own}")

    @property
    def noise(self) -> Noise:
        """What is done to the items."""
        return Noise(self.text_dropped, self.words_unknown, self.numbers_moved, self.history_hidden)


class MusicgenTraining(L.LightningModule):
    """Batches are what `tokens.CaptionedTokens` collates: tokens, inside, hidden, seed, text and text_mask.

    A step is made in so many `parts`, one after another, of which only one has to fit into memory.
    """

    takes_turns = False  # every parameter that learns has a part in every step

    def __init__(
        self, text_encoder: T5Encoder, decoder: Decoder, recipe: MusicgenRecipe, steps: int, parts: int = 1
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.text_encoder, self.decoder = text_encoder, decoder
        self.recipe, self.steps, self.parts = recipe, steps, parts

    def configure_callbacks(self) -> list[Callback]:
        """The average of the weights, where there is one."""
        return averages.callbacks(self.recipe.ema_decay)

    def configure_optimizers(self) -> list[OptimizerLRSchedulerConfig]:
        """AdamW without decay on norms, biases and embeddings, and Muon if asked for; linear warm-up, then a cosine."""
        recipe = self.recipe
        named = [(name, each) for name, each in self.named_parameters() if each.requires_grad]
        flat = [each for name, each in named if each.ndim < 2 or "embed" in name or "shared" in name]
        inner = [each for name, each in named if recipe.muon and _inner(name, each)]
        apart = {id(each) for each in (*flat, *inner)}
        decayed = [each for _, each in named if id(each) not in apart]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": flat, "weight_decay": 0.0}]
        found: list[Optimizer] = [torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)]
        if inner:
            decay = recipe.weight_decay
            found.append(torch.optim.Muon(inner, recipe.learning_rate, decay, adjust_lr_fn="match_rms_adamw"))
        return [{"optimizer": each, "lr_scheduler": self._schedule(each)} for each in found]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """One update; logs cross-entropy in nats a token."""
        optimizers = cast(list[Optimizer], _listed(self.optimizers()))
        for optimizer in optimizers:
            optimizer.zero_grad()
        places = self._places(batch)
        heard = []
        for part in _parts(batch, self.parts):
            loss, per_codebook = self.loss(part, places)
            self.manual_backward(loss)
            heard.append((loss.detach() * self.parts, per_codebook.detach()))
        nn.utils.clip_grad_norm_(self.parameters(), self.recipe.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        for schedule in cast(list[LRScheduler], _listed(self.lr_schedulers())):
            schedule.step()
        losses, codebooks = (torch.stack(each).mean(0) for each in zip(*heard))
        self.log("train/loss", losses, prog_bar=True)
        self.log_dict({f"train/codebook_{k}": value for k, value in enumerate(codebooks)})

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The same cross-entropy on held-out clips."""
        loss, per_codebook = self.loss(batch)
        self.log("valid/loss", loss, sync_dist=True)
        self.log_dict({f"valid/codebook_{k}": value for k, value in enumerate(per_codebook)}, sync_dist=True)

    def loss(self, batch: dict[str, Tensor], places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(mean over all places that hold a frame, the same for each codebook [K]).

        Ranks divide by what they hold on average, so that the mean of their losses is that of the joined batch. A part
        of a batch is divided by the `places` of the whole.
        """
        tokens, inside = batch["tokens"], batch["inside"][..., 1:]
        states = self.text_encoder(batch["text"], batch["text_mask"])
        before = tokens
        if self.training and self.recipe.history_own:
            before = self._rewritten(batch, states)
        logits = self._logits(batch, before, states)
        targets = torch.where(inside, tokens[..., 1:], -100)
        losses = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=-100, reduction="none")
        losses = losses.view_as(targets)
        per_codebook = losses.sum((0, 2)) / inside.sum((0, 2)).clamp(min=1)
        return losses.sum() / (self._places(batch) if places is None else places), per_codebook

    def _logits(self, batch: dict[str, Tensor], tokens: Tensor, states: Tensor) -> Tensor:
        """Of every token but the first, from those before it that are not hidden: [B, K, steps, vocab] float32."""
        seen = torch.where(batch["hidden"][:, None], self.decoder.config.vocab_size, tokens)
        return self.decoder(seen[..., :-1], states, batch["text_mask"]).float()

    @torch.no_grad()
    def _rewritten(self, batch: dict[str, Tensor], states: Tensor) -> Tensor:
        """Tokens of which the model has drawn some; each item by a seed of its own, whatever is beside it."""
        tokens = batch["tokens"].clone()
        logits = self._logits(batch, tokens, states)
        for item, inside, scores, seed in zip(tokens, batch["inside"], logits, batch["seed"].tolist()):
            chance = torch.Generator().manual_seed(seed)
            share = self.recipe.history_own * torch.rand((), generator=chance)
            chosen = (torch.rand(inside[:, 1:].shape, generator=chance) < share).to(inside.device) & inside[:, 1:]
            # The largest of probabilities over exponential numbers is a draw.
            odds = torch.empty(scores.shape).exponential_(generator=chance).to(scores.device)
            drawn = (scores.softmax(-1) / odds).argmax(-1)
            item[:, 1:] = torch.where(chosen, drawn, item[:, 1:])
        return tokens

    def _places(self, batch: dict[str, Tensor]) -> Tensor:
        return ranks.mean(batch["inside"][..., 1:].sum()).clamp(min=1)

    def _schedule(self, optimizer: Optimizer) -> LRSchedulerConfigType:
        return {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, self._share), "interval": "step"}

    def _share(self, step: int) -> float:
        recipe = self.recipe
        warm = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
        done = min(1.0, step / max(1, self.steps))
        cosine = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * done))))
        return warm * (recipe.final_share + (1 - recipe.final_share) * cosine)


def _inner(name: str, weight: Tensor) -> bool:
    """Whether it is a matrix of a layer of either network, and no table that is read row by row."""
    return weight.ndim == 2 and (".layers." in name or ".block." in name) and "relative_attention_bias" not in name


def _listed(found: object) -> list[Any]:
    """Lightning gives one as it is and several as a list."""
    return found if isinstance(found, list) else [found]


def _parts(batch: dict[str, Tensor], count: int) -> Iterator[dict[str, Tensor]]:
    """Cut a batch into so many, in order."""
    cut = {name: tensor.chunk(count) for name, tensor in batch.items()}
    for each in zip(*cut.values(), strict=True):
        yield dict(zip(cut, each))


def initialise_text(text_encoder: T5Encoder, numbers: Mapping[int, int]) -> None:
    """Let number words (number -> id) start as neighbours: what one tempo teaches, those near it know.

    Their rows become random waves over the number's logarithm (Rahimi and Recht, 2007): still of unit variance, alike
    within some 5 %, and unrelated beyond 20 %.
    """
    if not numbers:
        return
    logs = torch.tensor(list(numbers), dtype=torch.float32).log()
    width = text_encoder.config.d_model
    waves = torch.outer(logs, torch.randn(width) / NUMBERS_ALIKE) + 2 * torch.pi * torch.rand(width)
    with torch.no_grad():
        text_encoder.shared.weight[list(numbers.values())] = 2**0.5 * waves.cos()


def initialise(decoder: Decoder) -> None:
    """Draw weights for a decoder of any width, to be trained from the beginning.

    The published 0.02 suits layers of 1,024 and more. At 256 it leaves tokens far below the positions they are added
    to, and text a hundredth of what it is added to: hundreds of steps pass before either is heard.
    """
    config = decoder.config
    for name, weight in decoder.named_parameters():
        if weight.ndim < 2:
            continue
        if "embed_tokens" in name:  # together as loud as a position's sines
            std = (2 * config.num_codebooks) ** -0.5
        elif "lm_heads" in name:  # at first, every token is as likely
            std = config.initializer_factor
        elif "out_proj" in name or "fc2" in name:  # three of them a layer add up
            std = (3 * config.num_hidden_layers * weight.shape[1]) ** -0.5
        else:
            std = weight.shape[1] ** -0.5
        nn.init.normal_(weight, std=std)
