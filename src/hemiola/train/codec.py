"""Training an EnCodec: reconstruction, mel and adversarial losses, balanced, with learning codebooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import Encodec, save
from hemiola.errors import InputError
from hemiola.train import averages, losses
from hemiola.train.codebooks import CodebookTrainer
from hemiola.train.discriminators import MultiScaleDiscriminator
from hemiola.train.samples import Samples

STORED = ("float32", "float16")  # in which a checkpoint may be written
ENCODEC_LOSSES = {"waveform": 0.1, "mel": 2.0, "adversarial": 4.0, "features": 4.0}


@dataclass(frozen=True)
class CodecRecipe:
    """What a codec is trained with. Loss weights are shares of the update (see losses.Balancer); 0 switches one off.

    With `decoder_only` the encoder and the codebooks stay as they are, so every token keeps its meaning and a language
    model that knows them needs no training of its own. With `ema_decay` the result is the moving average of the
    weights. Each validation writes what became of its first `samples` items, to hear and to see.
    """

    losses: Mapping[str, float] = field(default_factory=lambda: dict(ENCODEC_LOSSES))
    commitment: float = 0.25
    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.9)
    steps: int = 300_000
    warmup_steps: int = 100
    adversarial_from: int = 0
    mel_windows: tuple[int, ...] = (64, 128, 256, 512, 1024)
    mel_floor: float = 1e-3
    discriminator_windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    discriminator_filters: int = 32
    quantiser_warmup_steps: int = 100
    codebook_decay: float = 0.99
    decoder_only: bool = False
    ema_decay: float | None = None
    samples: int = 4
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in STORED:
            raise InputError(f"recipe.dtype must be one of {', '.join(STORED)}, not '{self.dtype}'")
        unknown = sorted(set(self.losses) - set(ENCODEC_LOSSES))
        if unknown:
            raise InputError(f"unknown loss {unknown[0]}: known are {', '.join(ENCODEC_LOSSES)}")
        averages.check(self.ema_decay)


class CodecTraining(L.LightningModule):
    """Batches are audio float32 [B, C, samples].

    A step is made in so many `parts`, one after another, of which only one has to fit into memory.
    """

    def __init__(self, codec: Encodec, recipe: CodecRecipe, parts: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.codec, self.recipe, self.parts = codec, recipe, parts
        self.config: EncodecConfig = codec.config
        self.balancer = losses.Balancer(recipe.losses)
        self.codebooks = CodebookTrainer(
            codec.quantizer.codebooks,
            # Codebooks move with each part of a step.
            decay=recipe.codebook_decay ** (1 / parts),
            warmup_steps=recipe.quantiser_warmup_steps * parts,
            seed=recipe.seed,
        )
        codec.encoder.requires_grad_(not recipe.decoder_only)
        adversarial = recipe.losses.get("adversarial", 0) or recipe.losses.get("features", 0)
        self.discriminator = (
            MultiScaleDiscriminator(self.config.channels, recipe.discriminator_windows, recipe.discriminator_filters)
            if adversarial
            else None
        )

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the codec and, where there is one, for the discriminator."""
        parts: list[nn.Module] = [self.codec] if self.discriminator is None else [self.codec, self.discriminator]
        recipe = self.recipe
        trained = [[each for each in part.parameters() if each.requires_grad] for part in parts]
        return [torch.optim.Adam(each, lr=recipe.learning_rate, betas=recipe.betas) for each in trained]

    def configure_callbacks(self) -> list[Callback]:
        """The average of the weights, and what is written of a validation, where they are wanted."""
        wanted = averages.callbacks(self.recipe.ema_decay)
        if self.recipe.samples:
            wanted.append(Samples(self.config.sampling_rate, self.recipe.samples))
        return wanted

    def training_step(self, audio: Tensor, batch_idx: int) -> None:
        """One update of the discriminator (when it is on) and one of the codec."""
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            self._schedule(optimizer, batch_idx)
            optimizer.zero_grad()
        codebooks, on = self._codebooks_for_step(batch_idx), self._adversarial_on(batch_idx)
        heard: list[dict[str, Tensor]] = []
        for part in audio.chunk(self.parts):
            output, commitment = self.reconstruct(part, codebooks)
            last = len(heard) == self.parts - 1
            if on:
                self._learn(self._discriminator_loss(part, output.detach()), optimizers[1] if last else None)
            terms = losses.weighted(self._terms(part, output), self._active_weights(on))
            self._learn(self._codec_loss(output, terms, commitment), optimizers[0] if last else None, clip_norm=1.0)
            heard.append({name: value.detach() for name, value in (*terms.items(), ("commitment", commitment))})
        self.log_dict({f"train/{name}": torch.stack([each[name] for each in heard]).mean() for name in heard[0]})

    def reconstruct(self, audio: Tensor, codebooks: int) -> tuple[Tensor, Tensor]:
        """Audio -> (audio through the quantised codec, commitment loss)."""
        scale = loudness(audio) if self.config.normalize else audio.new_ones(())
        audio = audio / scale
        if self.recipe.decoder_only:
            with torch.no_grad():
                codes = self.codec.quantize(self.codec.latents(audio), codebooks)
                quantised, commitment = self.codec.dequantize(codes), audio.new_zeros(())
        else:
            quantised, commitment = self.codebooks(self.codec.latents(audio), codebooks)
        return self.codec.synthesize(quantised)[..., : audio.shape[-1]] * scale, commitment

    def mel(self, output: Tensor, audio: Tensor) -> Tensor:
        """Multi-scale mel distance by the recipe's windows and floor."""
        recipe, rate = self.recipe, self.config.sampling_rate
        return losses.multi_scale_mel(output, audio, rate, recipe.mel_windows, floor=recipe.mel_floor)

    def validation_step(self, audio: Tensor, batch_idx: int) -> Tensor:
        """Mel distance and SI-SDR in dB on held-out audio, and how much of each codebook is in use -> the output."""
        output, _ = self.reconstruct(audio, len(self.codebooks.embeds))
        mel = self.mel(output, audio)
        self.log_dict({"valid/mel": mel, "valid/si_sdr_db": si_sdr_db(output, audio)}, sync_dist=True)
        if not self.recipe.decoder_only:
            self.log("valid/codebook_use", self.codebooks.usage().mean(), sync_dist=True)
        return output

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the balancer's running norms beside the parameters."""
        checkpoint["balancer"] = self.balancer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the balancer's running norms back."""
        self.balancer.load_state_dict(checkpoint["balancer"])

    def export(self, folder: Path) -> None:
        """Write the codec as a checkpoint folder in Hugging Face's layout."""
        save(self.codec, folder, self.recipe.dtype)

    def _terms(self, audio: Tensor, output: Tensor) -> dict[str, Any]:
        judged: dict[str, Any] = {}

        def judge(which: Tensor, key: str) -> Any:
            if key not in judged:
                judged[key] = self._judge(which)
            return judged[key]

        return {
            "waveform": lambda: losses.waveform_l1(output, audio),
            "mel": lambda: self.mel(output, audio),
            "adversarial": lambda: losses.hinge_generator(judge(output, "fake")[0]),
            "features": lambda: losses.feature_matching(judge(audio, "real")[1], judge(output, "fake")[1]),
        }

    def _discriminator_loss(self, audio: Tensor, output: Tensor) -> Tensor:
        return losses.hinge_discriminator(self._judge(audio)[0], self._judge(output)[0])

    def _judge(self, audio: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        return cast(MultiScaleDiscriminator, self.discriminator)(audio)

    def _codec_loss(self, output: Tensor, terms: dict[str, Tensor], commitment: Tensor) -> Tensor:
        gradient = self.balancer.gradient(terms, output)
        # One backward pass for both: the balanced gradient enters at the output, commitment at the latents.
        return (output * gradient.detach()).sum() + self.recipe.commitment * commitment

    def _learn(self, loss: Tensor, optimizer: Any | None, clip_norm: float | None = None) -> None:
        """Add a part's gradient; with an optimizer, the last part's, the step is made."""
        self.manual_backward(loss / self.parts)
        if optimizer is None:
            return
        if clip_norm is not None:
            self.clip_gradients(optimizer, gradient_clip_val=clip_norm, gradient_clip_algorithm="norm")
        optimizer.step()

    def _schedule(self, optimizer: Any, step: int) -> None:
        """Linear warm-up, then a cosine to a tenth."""
        recipe = self.recipe
        warm = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
        cosine = 0.55 + 0.45 * float(torch.cos(torch.tensor(torch.pi * min(1.0, step / recipe.steps))))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * warm * cosine

    def _adversarial_on(self, step: int) -> bool:
        return self.discriminator is not None and step >= self.recipe.adversarial_from

    def _active_weights(self, adversarial_on: bool) -> dict[str, float]:
        weights = dict(self.recipe.losses)
        if not adversarial_on:
            weights.update(adversarial=0.0, features=0.0)
        return weights

    def _codebooks_for_step(self, step: int) -> int:
        """A bandwidth drawn by step, the same on every rank, so each prefix of the codebooks is of use."""
        choices = [self.config.codebooks_for(kbps) for kbps in self.config.target_bandwidths]
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]


def initialise(codec: Encodec) -> None:
    """Draw weights that keep the signal's variance from layer to layer.

    Torch's own start loses the signal on the way through 30 unnormalised layers: what reaches the loudspeaker at
    first then hardly depends on what went in, and hundreds of steps pass before anything is learned.
    """
    for module in codec.modules():
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            overlap = module.stride[0] if isinstance(module, nn.ConvTranspose1d) else 1
            inputs = module.in_channels * module.kernel_size[0] / overlap
            nn.init.normal_(module.weight, std=inputs**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def loudness(audio: Tensor) -> Tensor:
    """What a codec that normalises divides audio [B, C, samples] by: its mono mix's RMS [B, 1, 1], never quite 0."""
    return audio.mean(1, keepdim=True).square().mean(-1, keepdim=True).sqrt() + 1e-8


def si_sdr_db(output: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB of audio [B, C, samples], averaged (Le Roux et al., 2019)."""
    output, reference = (each - each.mean(-1, keepdim=True) for each in (output, reference))
    scale = (output * reference).sum(-1, keepdim=True) / (reference.square().sum(-1, keepdim=True) + 1e-8)
    target = scale * reference
    noise = output - target
    ratio = target.square().sum(-1) / (noise.square().sum(-1) + 1e-8)
    return (10 * torch.log10(ratio + 1e-8)).mean()
