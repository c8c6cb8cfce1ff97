"""Writes a folder of Hugging Face's layout in audiocraft's: the way back, worked out apart from the reader."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

LAYER = {
    "fc1": "linear1",
    "fc2": "linear2",
    "self_attn_layer_norm": "norm1",
    "encoder_attn_layer_norm": "norm_cross",
    "final_layer_norm": "norm2",
}


def write(source: Path, target: Path, *, names_codec: bool = False, **changes: Any) -> Path:
    """`names_codec` leaves the codec's weights out and names facebook/encodec_32khz; `changes` go to the settings."""
    target.mkdir()
    config = json.loads((source / "config.json").read_text())
    tensors = load_file(source / "model.safetensors")
    settings = {**language_model_settings(config), **changes}
    save(target / "state_dict.bin", language_model(tensors), settings)
    t5 = target / "t5-tiny"
    t5.mkdir()
    # As T5 is published: with a decoder, which nobody needs.
    text = {name.removeprefix("text_encoder."): each for name, each in tensors.items() if name.startswith("text_")}
    save_file({**text, "decoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(2)}, t5 / "model.safetensors")
    (t5 / "config.json").write_text(json.dumps(config["text_encoder"]))
    (t5 / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    stem = "audio_encoder."
    sound = {name.removeprefix(stem): each for name, each in tensors.items() if name.startswith(stem)}
    if names_codec:
        named = target / "encodec_32khz"
        named.mkdir()
        save_file(sound, named / "model.safetensors")
        (named / "config.json").write_text(json.dumps(config["audio_encoder"]))
        package = {"pretrained": "facebook/encodec_32khz", "exported": True, "version": "1.3.0"}
        torch.save(package, target / "compression_state_dict.bin")
    else:
        save(target / "compression_state_dict.bin", codec(sound), codec_settings(config["audio_encoder"], sound))
    return target


def save(path: Path, state: dict[str, Tensor], settings: dict[str, Any]) -> None:
    package = {"best_state": state, "xp.cfg": yaml.safe_dump(settings), "version": "1.3.0", "exported": True}
    torch.save(package, path)


def language_model(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = name.replace("decoder.model.decoder.", "decoder.", 1)
        if name.startswith("decoder.embed_tokens."):
            state[name.replace("decoder.embed_tokens", "emb")] = tensor
        elif name.startswith("decoder.lm_heads."):
            state[name.replace("decoder.lm_heads", "linears")] = tensor
        elif name.startswith("decoder.layer_norm."):
            state[name.replace("decoder.layer_norm", "out_norm")] = tensor
        elif name.startswith("enc_to_dec_proj."):
            state[f"condition_provider.conditioners.description.output_proj.{name.split('.')[1]}"] = tensor
        elif name.startswith("audio_enc_to_dec_proj."):
            state[f"condition_provider.conditioners.self_wav.output_proj.{name.split('.')[1]}"] = tensor
            state["condition_provider.conditioners.self_wav.chroma.spec.window"] = torch.hann_window(16384)
        elif name.startswith("decoder.layers."):
            _, _, number, part, rest = name.split(".", 4)
            stem = f"transformer.layers.{number}."
            if part.endswith("_attn"):
                theirs = stem + ("cross_attention." if part == "encoder_attn" else "self_attn.")
                if rest == "out_proj.weight":
                    state[theirs + rest] = tensor
                elif rest == "q_proj.weight":
                    parts = [tensors[f"decoder.model.{name.replace('q_proj', f'{each}_proj')}"] for each in "qkv"]
                    state[theirs + "in_proj_weight"] = torch.cat(parts)
            else:
                state[f"{stem}{LAYER[part]}.{rest}"] = tensor
    return state


def codec(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {}
    # Outside the blocks, all but the first and the last convolution of the decoder are transposed.
    for name, tensor in tensors.items():
        name = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", name)
        is_transposed = re.match(r"decoder\.model\.(3|6|9|12)\.conv\.", name) is not None
        name = re.sub(r"\bconv\.", "convtr.convtr." if is_transposed else "conv.conv.", name)
        name = re.sub(r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook.", name)
        state[name] = tensor
    return state


def language_model_settings(config: dict[str, Any]) -> dict[str, Any]:
    decoder = config["decoder"]
    is_stereo = decoder["audio_channels"] == 2
    delays = [k // 2 if is_stereo else k for k in range(decoder["num_codebooks"])]
    conditioners = {"description": {"model": "t5", "t5": {"name": "t5-tiny", "finetune": False}}, "args": {}}
    if "num_chroma" in config:
        stem = {"sample_rate": "${sample_rate}", "n_chroma": 12, "radix2_exp": 14, "argmax": True}
        conditioners["self_wav"] = {"model": "chroma_stem", "chroma_stem": stem}
    return {
        "sample_rate": config["audio_encoder"]["sampling_rate"],
        "lm_model": "transformer_lm",
        "transformer_lm": {
            "dim": decoder["hidden_size"],
            "num_heads": decoder["num_attention_heads"],
            "activation": "gelu",
            "norm_first": True,
            "positional_embedding": "sin",
            "past_context": None,
        },
        "codebooks_pattern": {"modeling": "delay", "delay": {"delays": delays}},
        "interleave_stereo_codebooks": {"use": is_stereo, "per_timestep": False},
        "conditioners": conditioners,
        "dataset": {"segment_duration": 30},
    }


def codec_settings(config: dict[str, Any], sound: dict[str, Tensor]) -> dict[str, Any]:
    codebooks = sum(name.endswith("codebook.embed") for name in sound)
    return {
        "sample_rate": config["sampling_rate"],
        "channels": 1,
        "compression_model": "encodec",
        "encodec": {
            "autoencoder": "seanet",
            "quantizer": "rvq",
            "sample_rate": "${sample_rate}",
            "channels": "${channels}",
            "causal": config["use_causal_conv"],
            "renormalize": False,
        },
        "seanet": {
            "dimension": config["hidden_size"],
            "causal": "${encodec.causal}",
            "n_filters": config["num_filters"],
            "n_residual_layers": 1,
            "ratios": config["upsampling_ratios"],
            "activation": "ELU",
            "norm": "weight_norm",
            "kernel_size": 7,
            "residual_kernel_size": 3,
            "last_kernel_size": 7,
            "dilation_base": 2,
            "pad_mode": config["pad_mode"],
            "true_skip": not config["use_conv_shortcut"],
            "compress": 2,
            "lstm": config["num_lstm_layers"],
            "disable_norm_outer_blocks": 0,
            "decoder": {"trim_right_ratio": 1.0, "final_activation": None},
            "encoder": {},
        },
        "rvq": {"n_q": codebooks, "bins": config["codebook_size"]},
    }
