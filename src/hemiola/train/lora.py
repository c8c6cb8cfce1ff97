"""LoRA: a model is frozen, and beside its matrices learn others of low rank (Hu et al., 2021).

y = W x + alpha / rank B A x, with A [rank, in] and B [out, rank]. B starts at 0, so the model starts as it was.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from hemiola.audio.writing import replacing
from hemiola.musicgen.decoder_torch import Decoder

TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
# The names that PEFT gives to files and tensors.
WEIGHTS, CONFIG, PREFIX = "adapter_model.safetensors", "adapter_config.json", "base_model.model.decoder."


class LowRank(nn.Linear):
    """A frozen matrix, under the name it had, and what learns beside it."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        # Built without memory of its own: the weight is that of the base.
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        self.weight = nn.Parameter(base.weight.detach(), requires_grad=False)
        self.lora_A = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B)

    def merged(self) -> nn.Linear:
        """One matrix that does the same."""
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        with torch.no_grad():
            plain.weight = nn.Parameter(self.weight + self.scale * self.lora_B @ self.lora_A)
        return plain


def adapt(decoder: Decoder, rank: int, alpha: float) -> None:
    """Freeze a decoder, and let matrices of `rank` learn beside those of its attention and feed-forward."""
    decoder.requires_grad_(False)
    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if name in TARGETS and isinstance(child, nn.Linear):
                setattr(parent, name, LowRank(child, rank, alpha))


def merged(decoder: Decoder) -> Decoder:
    """A plain decoder that does the same; the one that learns stays as it is."""
    plain = copy.deepcopy(decoder)
    for parent in list(plain.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LowRank):
                setattr(parent, name, child.merged())
    return plain


def save(decoder: Decoder, folder: Path, base: str, alpha: float) -> None:
    """Write what has learned, and a small JSON, to `folder`, in PEFT's layout; `base` is the model it belongs to."""
    layers = {name: each for name, each in decoder.named_modules() if isinstance(each, LowRank)}
    tensors = {
        f"{PREFIX}{name}.{part}.weight": getattr(layer, part).detach().cpu().contiguous()
        for name, layer in layers.items()
        for part in ("lora_A", "lora_B")
    }
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": next(iter(layers.values())).lora_A.shape[0],
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": r"decoder\.model\.decoder\.layers\..*\.(" + "|".join(TARGETS) + ")",
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS, force=True) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
    with replacing(folder / CONFIG, force=True) as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
