"""A training step of the language model: ours against transformers, of one size, on one batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hemiola.bench.contest import OURS, Progress, contest, facts, ratios
from hemiola.bench.generate_torch import RIVAL, SIZES, write_checkpoint
from hemiola.musicgen.checkpoint_torch import load_parts
from hemiola.train.musicgen import MusicgenRecipe, MusicgenTraining

_WORDS = 12


def measure(
    folder: Path, size: str, batch: int, frames: int, dtype: str, rounds: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Seconds a step of forward, backward and AdamW; `dtype` bfloat16 is automatic mixed precision for both."""
    checkpoint = write_checkpoint(folder, size)
    given = _batch(size, batch, frames)
    contenders = {OURS: _ours(checkpoint, given, dtype), RIVAL: _theirs(checkpoint, given, dtype)}
    outcomes = contest(contenders, rounds, progress=progress)
    return {
        **facts(("torch", RIVAL), size=size, batch=batch, frames=frames, dtype=dtype, rounds=rounds),
        "threads": torch.get_num_threads(),
        "rows": {name: {"seconds_per_step": each.median} for name, each in outcomes.items()},
        "times_as_fast": ratios(outcomes),
    }


def _batch(size: str, batch: int, frames: int) -> dict[str, Tensor]:
    config = SIZES[size]
    steps = config.pattern.steps(frames)
    tokens = torch.randint(config.vocab_size, (batch, config.num_codebooks, steps + 1))
    words = torch.randint(3, 8, (batch, _WORDS))
    inside = torch.ones_like(tokens, dtype=torch.bool)
    hidden = torch.zeros(batch, steps + 1, dtype=torch.bool)
    return {"tokens": tokens, "inside": inside, "hidden": hidden, "text": words, "text_mask": torch.ones_like(words)}


def _ours(checkpoint: Path, given: dict[str, Tensor], dtype: str) -> Callable[[], object]:
    module = MusicgenTraining(*load_parts(checkpoint), MusicgenRecipe(), steps=1)
    return _step(module, lambda: module.loss(given)[0], dtype)


def _theirs(checkpoint: Path, given: dict[str, Tensor], dtype: str) -> Callable[[], object]:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.MusicgenForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    model.audio_encoder.requires_grad_(False)
    model.train()
    inputs = given["tokens"][..., :-1].flatten(0, 1)
    labels = given["tokens"][..., 1:].movedim(1, 2)

    def loss() -> Tensor:
        out = model(input_ids=given["text"], attention_mask=given["text_mask"], decoder_input_ids=inputs, labels=labels)
        return out.loss

    return _step(model, loss, dtype)


def _step(module: torch.nn.Module, loss: Callable[[], Tensor], dtype: str) -> Callable[[], object]:
    optimizer = torch.optim.AdamW([each for each in module.parameters() if each.requires_grad])

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            cost = loss()
        cost.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
