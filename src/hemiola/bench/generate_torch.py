"""Steps of decoding: ours in several dtypes against transformers, on one checkpoint with random weights."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hemiola.bench.contest import OURS, Outcome, Progress, contest, copy_gb_per_second, facts, ratios
from hemiola.codec.config import ENCODEC_32KHZ
from hemiola.codec.encodec_torch import Encodec
from hemiola.musicgen import checkpoint_torch
from hemiola.musicgen.batch import Batch, Job
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.decoder_torch import Decoder
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.t5_torch import T5Encoder

RIVAL = "transformers"
PROMPT = "slow piano in a minor with soft drums, 80 bpm"
SIZES = {
    "sketch": DecoderConfig(512, 256, 4, 4, 1024),
    "small": DecoderConfig(2048, 1024, 24, 16, 4096),
    "medium": DecoderConfig(2048, 1536, 48, 24, 6144),
    "large": DecoderConfig(2048, 2048, 48, 32, 8192),
}
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
_GUIDANCE, _TOP_K = 3.0, 250
# Prompt and random codes over which logits are compared.
_COMPARED_FRAMES = 32


@dataclass(frozen=True)
class Work:
    """What every contender does: `steps` steps for `batch` prompts, with guidance."""

    size: str
    batch: int
    steps: int
    device: str

    @property
    def frames(self) -> int:
        """Frames that so many steps give."""
        return self.steps - SIZES[self.size].pattern.longest


def write_checkpoint(folder: Path, size: str) -> Path:
    """A MusicGen of one size with random weights, a small text encoder and a small codec; returns its folder."""
    decoder = SIZES[size]
    torch.manual_seed(0)
    words = ["<pad>", "</s>", "<unk>", *sorted(set(PROMPT.replace(",", "").split()))]
    (folder / "tokenizer.json").write_text(_tokenizer(words), encoding="utf-8")
    text = T5Config(vocab_size=len(words), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    values = {"num_filters": 4, "codebook_size": decoder.vocab_size, "target_bandwidths": [2.2]}
    codec = ENCODEC_32KHZ.from_dict({**ENCODEC_32KHZ.to_dict(), **values})
    parts = T5Encoder(text), Decoder(decoder, text.d_model), Encodec(codec)
    checkpoint_torch.save(folder / "model", *parts, folder / "tokenizer.json")
    return folder / "model"


def measure(
    folder: Path,
    work: Work,
    dtypes: Sequence[str],
    rivals: Sequence[str],
    rounds: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Milliseconds a step of ours in each of `dtypes` and of transformers in each of `rivals`; `folder` is scratch."""
    checkpoint = write_checkpoint(folder, work.size)
    models = {dtype: _model(checkpoint, work, dtype) for dtype in dtypes}
    contenders = {f"{OURS} {dtype}": _ours(model, work) for dtype, model in models.items()}
    contenders |= {f"{RIVAL} {dtype}": _theirs(checkpoint, work, dtype) for dtype in rivals}
    weights = sum(each.numel() for each in _step_weights(SIZES[work.size]))
    needed = {name: int(weights * _BYTES[name.split()[1]] * work.steps) for name in contenders}
    # Compiled steps say themselves what they read.
    for dtype, model in models.items():
        session = model.session(Batch(tuple(_jobs(work)), model.config.decoder.pattern))
        if hasattr(session, "bytes_read"):
            needed[f"{OURS} {dtype}"] = session.bytes_read * work.steps
    with torch.inference_mode():
        outcomes = contest(contenders, rounds, bytes_read=needed, progress=progress)
    roof = copy_gb_per_second() if work.device == "cpu" else None
    # Without it torch takes our steps on a CPU too.
    numba = ["numba"] if importlib.util.find_spec("numba") else []
    return {
        **facts(("torch", RIVAL, *numba), size=work.size, batch=work.batch, steps=work.steps, rounds=rounds),
        "device": work.device,
        "threads": torch.get_num_threads(),
        "copy_gb_per_second": roof,
        "rows": {name: _row(each, work, roof) for name, each in outcomes.items()},
        "times_as_fast": ratios(outcomes),
        "against_float32": _agreement(models),
    }


def _row(outcome: Outcome, work: Work, roof: float | None) -> dict[str, float | None]:
    reading = outcome.bytes_read / outcome.median / 1e9
    return {
        "ms_per_step": 1000 * outcome.median / work.steps,
        "frames_per_second": work.batch * work.frames / outcome.median,
        "gb_per_second": reading,
        "share_of_copy": None if roof is None else reading / roof,
    }


def _model(checkpoint: Path, work: Work, dtype: str) -> MusicgenModel:
    return MusicgenModel.from_pretrained(checkpoint, backend="torch", device=work.device, dtype=dtype)


def _ours(model: MusicgenModel, work: Work) -> Callable[[], object]:
    return lambda: list(model.tokens(_jobs(work)))


def _jobs(work: Work) -> list[Job]:
    return [Job(PROMPT, work.frames, seed=seed) for seed in range(work.batch)]


def _theirs(checkpoint: Path, work: Work, dtype: str) -> Callable[[], object]:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    wanted = getattr(torch, dtype)
    model = transformers.MusicgenForConditionalGeneration.from_pretrained(checkpoint, dtype=wanted).eval()
    model.to(work.device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    inputs = tokenizer([PROMPT] * work.batch, return_tensors="pt").to(work.device)
    # Steps are what is timed: the codec has a contest of its own.
    model.audio_encoder.decode = lambda codes, audio_scales: type("Nothing", (), {"audio_values": codes})()
    settings = {"do_sample": True, "guidance_scale": _GUIDANCE, "top_k": _TOP_K, "max_new_tokens": work.steps}
    return lambda: model.generate(**inputs, **settings).cpu()


def _step_weights(config: DecoderConfig) -> list[torch.Tensor]:
    """The matrices that every step reads: all of the layers but the text's keys and values, and the heads."""
    with torch.device("meta"):
        decoder = Decoder(config, 64)
    skipped = ("encoder_attn.k_proj", "encoder_attn.v_proj", "embed_tokens", "enc_to_dec_proj")
    return [each for name, each in decoder.named_parameters() if not any(part in name for part in skipped)]


def _agreement(models: dict[str, MusicgenModel]) -> dict[str, dict[str, float]]:
    """How far guided logits are from float32: mean divergence in nats at temperature 1, same likeliest token."""
    if "float32" not in models:
        return {}
    exact = guided_logits(models["float32"]).log_softmax(-1)
    found = {}
    for dtype, model in models.items():
        if dtype != "float32":
            rounded = guided_logits(model).log_softmax(-1)
            found[dtype] = {
                "mean_kl_nats": float((exact.exp() * (exact - rounded)).sum(-1).mean()),
                "same_likeliest": float((exact.argmax(-1) == rounded.argmax(-1)).float().mean()),
            }
    return found


def guided_logits(model: MusicgenModel, prompt: str = PROMPT, codes: np.ndarray | None = None) -> torch.Tensor:
    """Guided logits [steps, K, vocab] while each step is fed what `codes` [K, frames] say (random ones by default)."""
    config = model.config.decoder
    if codes is None:
        shape = config.num_codebooks, _COMPARED_FRAMES
        codes = np.random.default_rng(0).integers(config.vocab_size, size=shape).astype(np.int32)
    batch = Batch((Job(prompt, codes.shape[1] + 1, prompt=codes),), config.pattern)
    session = model.session(batch)
    found: list[torch.Tensor] = []

    def keep(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        found.append(logits.float().cpu())
        return logits.argmax(-1)

    session.picker = keep
    for position in range(codes.shape[1]):
        session.step(np.maximum(batch.script[position], 0), position)
    return torch.cat(found)


def _tokenizer(words: Sequence[str]) -> str:
    """A tokenizer.json that knows these words, the first three of them pad, end and unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, words[2]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(words[:3]))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {words[1]}", special_tokens=[(words[1], 1)])
    return json.dumps(json.loads(tokenizer.to_str()))
