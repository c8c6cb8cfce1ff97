"""Write a MusicGen folder in Hugging Face's layout from torch modules: what this package and transformers read."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from hemiola.audio.writing import replacing
from hemiola.codec.encodec_torch import Encodec, to_checkpoint
from hemiola.errors import OutputError, WeightsError
from hemiola.musicgen.config import MusicgenConfig
from hemiola.musicgen.decoder_torch import Decoder
from hemiola.musicgen.folder import small_files, write_small
from hemiola.musicgen.model import decoder_part, read_config
from hemiola.musicgen.sampling import USUAL, Sampling
from hemiola.musicgen.session_torch import DECODER_IGNORABLE, TEXT_IGNORABLE
from hemiola.musicgen.t5_torch import T5Encoder
from hemiola.weights import keys

PROJECTIONS = ("enc_to_dec_proj.", "audio_enc_to_dec_proj.")


def tensors_of(text_encoder: T5Encoder, decoder: Decoder, codec: Encodec) -> dict[str, Tensor]:
    """All tensors by their names in a MusicGen checkpoint, on the CPU."""
    tensors = {f"text_encoder.{name}": tensor for name, tensor in text_encoder.state_dict().items()}
    for name, tensor in decoder.state_dict().items():
        # The projections are kept with our decoder; in the checkpoint they stand beside it.
        tensors[name if name.startswith(PROJECTIONS) else f"decoder.{name}"] = tensor
    tensors |= {f"audio_encoder.{name}": tensor for name, tensor in to_checkpoint(codec).items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def save(
    folder: str | Path,
    text_encoder: T5Encoder,
    decoder: Decoder,
    codec: Encodec,
    tokenizer: str | Path,
    dtype: str = "float32",
    recommended: Sampling = USUAL,
) -> None:
    """Write config, weights, tokenizer and the small files beside them; the folder is made when it is not there.

    `tokenizer` is the path of a tokenizer.json. `dtype` "float16" halves the size on disk; what is loaded from it
    computes in float32 all the same, unless asked otherwise. `recommended` is what the model is best asked with.
    Raises WeightsError when the parts do not fit together, OutputError when the folder cannot be written.
    """
    config = MusicgenConfig(text_encoder.config, decoder.config, codec.config)
    stored = getattr(torch, dtype)
    tensors = {
        name: tensor.to(stored) if tensor.is_floating_point() else tensor
        for name, tensor in tensors_of(text_encoder, decoder, codec).items()
    }
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / keys.WEIGHTS, force=True) as partial:
            save_file(tensors, partial, metadata={"format": "pt"})
        write_small(folder, small_files(config, dtype, recommended), Path(tokenizer))
    except OSError as error:
        raise OutputError(f"the checkpoint cannot be written to {folder} ({error}): choose another folder") from error


def load_parts(folder: str | Path) -> tuple[T5Encoder, Decoder]:
    """Text encoder and decoder of a folder as modules in float32, for training to go on from.

    Raises WeightsError when the folder holds no MusicGen, or its tensors do not fit its config.
    """
    config = read_config(Path(folder))
    if config.decoder.melody is not None:
        raise WeightsError(f"{folder} is a melody model, which training cannot go on from: name one without melody")
    tensors = keys.read(Path(folder), "torch")
    text_encoder, decoder = T5Encoder(config.text), Decoder(config.decoder, config.text.d_model)
    parts = ((text_encoder, keys.under(tensors, "text_encoder.")), (decoder, decoder_part(tensors)))
    for module, found in parts:
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        keys.check(shapes, found, where=type(module).__name__, ignorable=TEXT_IGNORABLE + DECODER_IGNORABLE)
        module.load_state_dict({name: found[name] for name in shapes})
    return text_encoder, decoder
