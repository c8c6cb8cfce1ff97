"""Checkpoints in audiocraft's layout, two pickles with their settings inside, read as Hugging Face's config and names.

The text encoder is in neither pickle, and the codec may be named only: those are found beside them, or fetched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hemiola.errors import WeightsError
from hemiola.timebase import Timebase
from hemiola.weights import hub, keys

LANGUAGE_MODEL, CODEC = keys.AUDIOCRAFT

_LAYER_PARTS = {
    "self_attn": "self_attn",
    "cross_attention": "encoder_attn",
    "linear1": "fc1",
    "linear2": "fc2",
    "norm1": "self_attn_layer_norm",
    "norm_cross": "encoder_attn_layer_norm",
    "norm2": "final_layer_norm",
}
_STEMS = {
    "emb.": "decoder.model.decoder.embed_tokens.",
    "out_norm.": "decoder.model.decoder.layer_norm.",
    "linears.": "decoder.lm_heads.",
    "condition_provider.conditioners.description.output_proj.": "enc_to_dec_proj.",
    "condition_provider.conditioners.self_wav.output_proj.": "audio_enc_to_dec_proj.",
    "condition_provider.conditioners.description.t5.": "text_encoder.",
}
_LAYER = re.compile(r"transformer\.layers\.(\d+)\.(\w+)\.(.+)")
_FUSED = "in_proj_weight"
# Worked out from the settings, not learned.
_COMPUTED = ("condition_provider.conditioners.self_wav.chroma.",)
_CODEC_NAMES = (
    (re.compile(r"^(encoder|decoder)\.model\."), r"\1.layers."),
    (re.compile(r"\b(conv|convtr)\.(conv|convtr)\."), "conv."),
    (re.compile(r"\b(conv|convtr)\.norm\."), "norm."),
    (re.compile(r"^quantizer\.vq\.layers\.(\d+)\._codebook\."), r"quantizer.layers.\1.codebook."),
)
# Settings by which a language model could differ from MusicGen and its tensors look the same.
_FIXED = {
    "lm_model": "transformer_lm",
    "transformer_lm.activation": "gelu",
    "transformer_lm.norm_first": True,
    "transformer_lm.positional_embedding": "sin",
    "transformer_lm.past_context": None,
    "transformer_lm.kv_repeat": 1,
    "codebooks_pattern.modeling": "delay",
    "transformer_lm.q_modeling": "delay",  # where it stood at first
    "interleave_stereo_codebooks.per_timestep": False,
}
_CODEC_FIXED = {
    "compression_model": "encodec",
    "encodec.autoencoder": "seanet",
    "encodec.quantizer": "rvq",
    "encodec.renormalize": False,
    "seanet.activation": "ELU",
    "seanet.decoder.final_activation": None,
    "seanet.disable_norm_outer_blocks": 0,
}


class Settings:
    """A package's settings by dotted name; `${other.name}` stands for another setting."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self._values = values
        self.path = path

    def get(self, name: str, default: Any = None) -> Any:
        """The setting, or `default` where there is none; raises WeightsError for a circle of references."""
        for _ in range(10):
            found: Any = self._values
            for part in name.split("."):
                found = found.get(part, default) if isinstance(found, Mapping) else default
            reference = re.fullmatch(r"\$\{([\w.]+)\}", found) if isinstance(found, str) else None
            if reference is None:
                return found
            name = reference[1]
        raise WeightsError(f"{self.path}: the setting {name} refers to itself")

    def number(self, name: str, default: float | None = None) -> Any:
        """A setting that has to be a number; raises WeightsError."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise WeightsError(f"{self.path}: the setting {name} is {value!r}, not a number")
        return value

    def require(self, fixed: Mapping[str, Any]) -> None:
        """Raise WeightsError for a setting that is there, is not null, and is not as `fixed` says."""
        for name, wanted in fixed.items():
            found = self.get(name)
            if found is not None and found != wanted:
                raise WeightsError(f"{self.path}: {name} {found!r} is not supported, only {wanted!r}")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """A config as in Hugging Face's config.json, torch tensors by its names, and the folder of the tokenizer.

    The text encoder and a codec that is only named are looked for in the folder under their own names, then on the
    hub. Raises WeightsError for what cannot be read or is no MusicGen, DownloadError for what cannot be fetched.
    """
    settings, found = _package(folder / LANGUAGE_MODEL)
    settings.require(_FIXED)
    tensors = language_model_tensors(found)
    decoder, melody = _decoder(settings, tensors)
    text, text_tensors, text_folder = _text_encoder(folder, settings)
    codec, sound_tensors = read_codec(folder)
    values: dict[str, Any] = {"model_type": "musicgen_melody" if melody else "musicgen", **melody}
    values |= {"text_encoder": text, "audio_encoder": codec, "decoder": decoder}
    # A text encoder that was trained along goes before the one that it came from.
    tensors |= {f"audio_encoder.{name}": tensor for name, tensor in sound_tensors.items()}
    return values, {**text_tensors, **tensors}, text_folder


def language_model_tensors(found: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's tensors by Hugging Face's names; queries, keys and values apart. Unknown names stay."""
    tensors: dict[str, Any] = {}
    for name, tensor in found.items():
        if name.startswith(_COMPUTED):
            continue
        renamed = _renamed(name)
        if not renamed.endswith(_FUSED):
            tensors[renamed] = tensor
            continue
        for part, piece in zip("qkv", tensor.chunk(3)):
            tensors[f"{renamed.removesuffix(_FUSED)}{part}_proj.weight"] = piece.clone()
    return tensors


def codec_tensors(found: Mapping[str, Any]) -> dict[str, Any]:
    """A codec's tensors by the names they have in Hugging Face's EncodecModel."""
    tensors = {}
    for name, tensor in found.items():
        for pattern, replacement in _CODEC_NAMES:
            name = pattern.sub(replacement, name)
        tensors[name] = tensor
    return tensors


def _renamed(name: str) -> str:
    name = name.replace(".mha.", ".")
    match = _LAYER.fullmatch(name)
    if match is not None:
        part = _LAYER_PARTS.get(match[2], match[2])
        return f"decoder.model.decoder.layers.{match[1]}.{part}.{match[3]}"
    for stem, ours in _STEMS.items():
        if name.startswith(stem):
            return ours + name.removeprefix(stem)
    return name


def _package(path: Path) -> tuple[Settings, dict[str, Any]]:
    """Settings and tensors of one pickle."""
    import yaml

    content = keys.unpickled(path)
    text, state = content.get("xp.cfg"), content.get("best_state")
    if not isinstance(text, str) or not isinstance(state, Mapping):
        raise WeightsError(f"{path} is not as audiocraft exports it (xp.cfg as text, and best_state): export it again")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WeightsError(f"{path}: its settings are not YAML: export it again") from error
    return Settings(values if isinstance(values, dict) else {}, path), dict(state)


def _decoder(settings: Settings, tensors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """The config of the decoder, from the shapes where they tell; and that of the melody, empty without one."""

    def count(pattern: str) -> int:
        return len({match[1] for match in map(re.compile(pattern).match, tensors) if match})

    stack = "decoder.model.decoder."
    table, wide = (tensors.get(stack + name) for name in ("embed_tokens.0.weight", "layers.0.fc1.weight"))
    if table is None or wide is None:
        raise WeightsError(f"{settings.path} holds no MusicGen: there are no embeddings, or no layers")
    is_stereo = bool(settings.get("interleave_stereo_codebooks.use", False))
    codebooks = count(rf"{re.escape(stack)}embed_tokens\.(\d+)\.")
    delays = [book // 2 if is_stereo else book for book in range(codebooks)]
    settings.require({"codebooks_pattern.delay.delays": delays})
    decoder = {
        "model_type": "musicgen_decoder",
        "vocab_size": table.shape[0] - 1,
        "hidden_size": table.shape[1],
        "num_hidden_layers": count(rf"{re.escape(stack)}layers\.(\d+)\."),
        "num_attention_heads": settings.number("transformer_lm.num_heads"),
        "ffn_dim": wide.shape[0],
        "num_codebooks": codebooks,
        "audio_channels": 2 if is_stereo else 1,
    }
    projection = tensors.get("audio_enc_to_dec_proj.weight")
    if projection is None:
        return decoder, {}
    rows = _chroma_length(settings)
    return {**decoder, "model_type": "musicgen_melody_decoder"}, {
        "num_chroma": projection.shape[1],
        "chroma_length": rows,
    }


def _chroma_length(settings: Settings) -> int:
    stem = "conditioners.self_wav.chroma_stem."
    settings.require({f"{stem}radix2_exp": 14, f"{stem}argmax": True})
    # Windows move on by a quarter of themselves, and there is one around sample 0.
    clock = Timebase(settings.number(f"{stem}sample_rate", settings.get("sample_rate")), 2**14 // 4)
    return 1 + clock.whole_frames(clock.samples(settings.number("dataset.segment_duration", 30)))


def _text_encoder(folder: Path, settings: Settings) -> tuple[dict[str, Any], dict[str, Any], Path]:
    settings.require({"conditioners.description.model": "t5"})
    name = str(settings.get("conditioners.description.t5.name", "t5-base"))
    path = _beside(folder, name, f"google-t5/{name}")
    values = keys.json_of(path / hub.CONFIG)
    tensors = keys.read(path, "torch", allow_pickle=True)
    own = {key: each for key, each in tensors.items() if key.startswith(("shared.", "encoder."))}
    return values, {f"text_encoder.{key}": each for key, each in own.items()}, path


def read_codec(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The codec of a folder alone: a config, and torch tensors by Hugging Face's names. Raises as `read` does."""
    path = folder / CODEC
    named = keys.unpickled(path).get("pretrained")
    if named is not None:
        place = _beside(folder, str(named), str(named))
        return keys.json_of(place / hub.CONFIG), keys.read(place, "torch", allow_pickle=True)
    settings, found = _package(path)
    settings.require(_CODEC_FIXED)
    return _codec_config(settings), codec_tensors(found)


def _codec_config(settings: Settings) -> dict[str, Any]:
    ratios = settings.get("seanet.ratios")
    if not isinstance(ratios, list) or not all(isinstance(each, int) and each > 0 for each in ratios):
        raise WeightsError(f"{settings.path}: the setting seanet.ratios is {ratios!r}, not whole numbers")
    rate, entries = settings.number("encodec.sample_rate"), settings.number("rvq.bins")
    # What all codebooks cost together, in kbps, counted as transformers counts it.
    bits = math.ceil(Timebase(rate, math.prod(ratios)).frame_rate) * (entries.bit_length() - 1)
    same: dict[str, tuple[str, Callable[[str], Any]]] = {
        "hidden_size": ("dimension", settings.number),
        "num_filters": ("n_filters", settings.number),
        "num_residual_layers": ("n_residual_layers", settings.number),
        "norm_type": ("norm", settings.get),
        "kernel_size": ("kernel_size", settings.number),
        "last_kernel_size": ("last_kernel_size", settings.number),
        "residual_kernel_size": ("residual_kernel_size", settings.number),
        "dilation_growth_rate": ("dilation_base", settings.number),
        "use_causal_conv": ("causal", settings.get),
        "pad_mode": ("pad_mode", settings.get),
        "compress": ("compress", settings.number),
        "num_lstm_layers": ("lstm", settings.number),
    }
    return {
        "model_type": "encodec",
        **{ours: ask(f"seanet.{theirs}") for ours, (theirs, ask) in same.items()},
        "sampling_rate": rate,
        "audio_channels": settings.number("encodec.channels"),
        "upsampling_ratios": ratios,
        "trim_right_ratio": settings.number("seanet.decoder.trim_right_ratio", 1.0),
        "use_conv_shortcut": not settings.get("seanet.true_skip", True),
        "codebook_size": entries,
        "target_bandwidths": [settings.number("rvq.n_q") * bits / 1000],
    }


def _beside(folder: Path, name: str, on_hub: str) -> Path:
    """The folder of a checkpoint that a package names: inside its own, or fetched."""
    inside = folder / name.rpartition("/")[2]
    return inside if inside.is_dir() else hub.locate(on_hub if "/" not in name else name, allow_pickle=True).folder
