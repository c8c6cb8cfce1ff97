"""A MusicGen folder in Hugging Face's layout: the small files beside its weights, and one made from another layout."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hemiola import backend as backends
from hemiola.audio.writing import replacing
from hemiola.codec.config import EncodecConfig
from hemiola.codec.model import EncodecModel
from hemiola.errors import InputError, OutputError
from hemiola.musicgen import chroma
from hemiola.musicgen import tokenizer as tokenizers
from hemiola.musicgen.config import MusicgenConfig
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.sampling import RECOMMENDED, Sampling
from hemiola.musicgen.windows import TRAINED_SECONDS
from hemiola.weights import checkpoint, hub, keys

# Transformers reads this file for the length of a generation that states none.
DEFAULT_FRAMES = 1500
# Copies and tables that are worked out again.
SURPLUS = ("text_encoder.encoder.embed_tokens.weight", "decoder.model.decoder.embed_positions.weights")

Files = dict[str, dict[str, Any]]


def convert(source: Path, target: Path, *, dtype: str, backend: str = "auto", allow_pickle: bool = False) -> None:
    """Write the checkpoint in `source`, of any layout that is read here, to the new folder `target`.

    One safetensors file in `dtype`, under Hugging Face's names. The result is loaded before it gets its name.
    Raises WeightsError for what cannot be read or does not fit its config, OutputError for what cannot be written.
    """
    name = backends.choose(backend, "cpu").name
    if dtype not in backends.DTYPES:
        raise InputError(f"unknown dtype '{dtype}': one of {', '.join(backends.DTYPES)}")
    check_target(target)
    content = checkpoint.read(source, name, allow_pickle=allow_pickle)
    files = _files(content.values, dtype, Sampling.from_folder(source))
    try:
        with tempfile.TemporaryDirectory(prefix=".hemiola-", dir=target.parent) as temporary:
            folder = Path(temporary) / target.name
            folder.mkdir()
            kept = {name: tensor for name, tensor in content.tensors.items() if name not in SURPLUS}
            with replacing(folder / keys.WEIGHTS) as partial:
                keys.write(partial, kept, name, dtype)
            write_small(folder, files, content.tokenizer / tokenizers.FILE)
            del content, kept
            kind = MusicgenModel if tokenizers.FILE in _names(folder) else EncodecModel
            kind.from_pretrained(folder, backend=name, device="cpu", dtype="float32")
            folder.rename(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror or error}): choose another folder") from error


def check_target(target: Path) -> None:
    """Raise OutputError unless `target` is free, in a folder that is there."""
    if target.exists():
        raise OutputError(f"{target} exists: name a new folder")
    if not target.parent.is_dir():
        raise OutputError(f"the folder {target.parent} does not exist: create it first")


def write_small(folder: Path, files: Mapping[str, Mapping[str, Any]], tokenizer: Path) -> None:
    """Write JSON files, and for a text model a copy of the tokenizer.json `tokenizer`; OSError when that fails."""
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if "tokenizer_config.json" in files:
        (folder / tokenizers.FILE).write_bytes(tokenizer.read_bytes())


def small_files(config: MusicgenConfig, dtype: str, recommended: Sampling) -> Files:
    """What stands beside a MusicGen's weights, by file name, for weights in `dtype`."""
    special = config.decoder.special
    return {
        hub.CONFIG: {**config.to_dict(), "dtype": dtype},
        RECOMMENDED: {
            "bos_token_id": special,
            "pad_token_id": special,
            "decoder_start_token_id": special,
            "do_sample": True,
            **recommended.to_dict(),
            "max_length": config.decoder.pattern.steps(DEFAULT_FRAMES) + 1,
        },
        "preprocessor_config.json": _extractor(config),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "model_max_length": 512,
        },
    }


def _extractor(config: MusicgenConfig) -> dict[str, Any]:
    """How transformers turns sound into what the model takes: a clip for the codec, or a tune."""
    melody = config.decoder.melody
    common = {"padding_side": "left", "padding_value": 0.0, "sampling_rate": config.codec.sampling_rate}
    if melody is None:
        channels = config.decoder.audio_channels
        codec = {"feature_extractor_type": "EncodecFeatureExtractor", "feature_size": channels}
        return {**codec, **common, "return_attention_mask": True}
    return {
        "feature_extractor_type": "MusicgenMelodyFeatureExtractor",
        "feature_size": melody.num_chroma,
        "num_chroma": melody.num_chroma,
        "n_fft": chroma.WINDOW,
        "hop_length": chroma.STRIDE,
        "chunk_length": TRAINED_SECONDS,
        **common,
        "return_attention_mask": False,
    }


def _files(values: dict[str, Any], dtype: str, recommended: Sampling) -> Files:
    if "audio_encoder" in values:
        return small_files(MusicgenConfig.from_dict(values), dtype, recommended)
    return {hub.CONFIG: {**EncodecConfig.from_dict(values).to_dict(), "dtype": dtype}}


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
