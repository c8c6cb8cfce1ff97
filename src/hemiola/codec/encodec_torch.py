"""EnCodec in torch: SEANet encoder and decoder around a residual vector quantizer. Mirrors encodec_mlx.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from hemiola.audio.writing import replacing
from hemiola.backend import Backend
from hemiola.codec import plan, tiles
from hemiola.codec.config import EncodecConfig
from hemiola.codec.kernels_torch import smallest
from hemiola.codec.seanet_torch import Seanet
from hemiola.codec.stream_torch import SeanetStream
from hemiola.weights import keys
from hemiola.weights.unfilled_torch import unfilled

# Rows of latents that are compared with a codebook at a time: 4096 x 2048 distances are 32 MB, however long the audio.
BLOCK_ROWS = 4096
# Training state that a published checkpoint carries in its codebooks and that coding has no use for.
IGNORABLE = ("*.codebook.inited", "*.codebook.cluster_size", "*.codebook.embed_avg")


class Codebook(nn.Module):
    """One table of vectors, `embed` [size, D]: a buffer, since it is moved by averages and not by gradients."""

    embed: Tensor

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        embed = torch.empty(config.codebook_size, config.hidden_size)
        self.register_buffer("embed", nn.init.kaiming_uniform_(embed))

    def nearest(self, x: Tensor) -> Tensor:
        """x [N, D] -> index of the entry at the smallest distance [N]; both in float32."""
        embed = self.embed.float()
        # |x - e|^2 without |x|^2, which is the same for every entry.
        return smallest(torch.addmm(embed.square().sum(1), x, embed.T, alpha=-2))


class CodebookLayer(nn.Module):
    """Holds a codebook under the name that it has in a checkpoint."""

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        self.codebook = Codebook(config)


class Quantizer(nn.Module):
    """Residual vector quantizer: each codebook codes what the ones before it left over."""

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([CodebookLayer(config) for _ in range(config.codebooks)])

    @property
    def codebooks(self) -> list[Codebook]:
        """The tables in the order in which they code."""
        return [cast(Codebook, layer.codebook) for layer in self.layers]

    def encode(self, x: Tensor, codebooks: int) -> Tensor:
        """x [N, D] float32 -> codes [codebooks, N]."""
        blocks = []
        for start in range(0, len(x), BLOCK_ROWS):
            rows, codes = x[start : start + BLOCK_ROWS], []
            for codebook in self.codebooks[:codebooks]:
                codes.append(codebook.nearest(rows))
                rows = rows - codebook.embed[codes[-1]]
            blocks.append(torch.stack(codes))
        return torch.concatenate(blocks, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes [K, N] -> the sum of their entries [N, D]."""
        first, *others = zip(self.codebooks, codes)
        x = functional.embedding(first[1], first[0].embed)
        for codebook, indices in others:
            x += functional.embedding(indices, codebook.embed)
        return x


class Encodec(nn.Module):
    """The codec. Parameter names are the checkpoint's, with weight norm folded into `...conv.weight`."""

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Seanet(plan.encoder_plan(config))
        self.decoder = Seanet(plan.decoder_plan(config))
        self.quantizer = Quantizer(config)

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in; the codebooks stay in float32."""
        return next(self.decoder.parameters()).dtype

    def latents(self, audio: Tensor) -> Tensor:
        """audio [B, channels, samples] -> latents [B, D, ceil(samples / hop)]; differentiable."""
        return self.encoder(audio.to(self.dtype))

    @torch.no_grad()
    def quantize(self, latents: Tensor, codebooks: int) -> Tensor:
        """latents [B, D, F] -> codes [B, codebooks, F] int64, in float32 whatever the latents and autocast say."""
        batch, width, frames = latents.shape
        with torch.autocast(latents.device.type, enabled=False):
            x = latents.swapaxes(1, 2).reshape(-1, width).float()
            codes = self.quantizer.encode(x, codebooks)
        return codes.reshape(codebooks, batch, frames).swapaxes(0, 1)

    def dequantize(self, codes: Tensor) -> Tensor:
        """codes [B, K, F] integers -> latents [B, D, F] float32."""
        batch, codebooks, frames = codes.shape
        x = self.quantizer.decode(codes.swapaxes(0, 1).reshape(codebooks, -1))
        return x.reshape(batch, frames, self.config.hidden_size).swapaxes(1, 2)

    def synthesize(self, latents: Tensor) -> Tensor:
        """latents [B, D, F] -> audio [B, channels, F * hop]; differentiable."""
        return self.decoder(latents.to(self.dtype))

    def latents_array(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `latents`, from numpy to numpy and tile after tile."""
        return self._encoded(audio, None)

    def encode_array(self, audio: NDArray[np.float32], codebooks: int) -> NDArray[np.int32]:
        """audio [B, channels, samples] -> codes [B, codebooks, F], in numpy and tile after tile."""
        return self._encoded(audio, codebooks)

    def _encoded(self, audio: NDArray[np.float32], codebooks: int | None) -> NDArray[Any]:
        tile = self._tile(len(audio))
        return tiles.encode(EncoderStream(self, codebooks, tile), audio, self.config, tile)

    def decode_array(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """codes [B, K, F] -> audio [B, channels, F * hop], in numpy and tile after tile."""
        tile = self._tile(len(codes))
        return tiles.decode(DecoderStream(self, tile), codes, self.config, tiles.deep(tile))

    def encoder_stream(self, codebooks: int) -> EncoderStream:
        """What makes codes of audio that comes in blocks."""
        return EncoderStream(self, codebooks)

    def decoder_stream(self) -> DecoderStream:
        """What makes audio of codes that come in blocks."""
        return DecoderStream(self)

    def _tensor(self, array: NDArray) -> Tensor:
        return torch.tensor(array, device=next(self.decoder.parameters()).device)

    def _array(self, x: Tensor, dtype: torch.dtype = torch.float32) -> NDArray[Any]:
        return x.to(dtype).cpu().numpy()

    def _tile(self, rows: int) -> int | None:
        on_cpu = next(self.decoder.parameters()).device.type == "cpu"
        return tiles.tile_frames(self.config, rows, tiles.CACHE_BYTES if on_cpu else tiles.DEVICE_BYTES)


class EncoderStream:
    """Audio to codes, block by block; without `codebooks`, to latents."""

    def __init__(self, codec: Encodec, codebooks: int | None = None, tile: int | None = None) -> None:
        self.codec, self.codebooks = codec, codebooks
        self.network = SeanetStream(codec.encoder, tile, tiles.deep(tile))

    @torch.inference_mode()
    def __call__(self, audio: NDArray[np.float32], last: bool) -> NDArray[Any]:
        """audio [B, channels, n] -> codes [B, codebooks, f] or latents [B, D, f]: the frames that are final by now."""
        codec = self.codec
        latents = self.network(codec._tensor(audio).mT.to(codec.dtype), last).mT
        if self.codebooks is None:
            return codec._array(latents)
        if latents.shape[-1] == 0:
            return np.empty((len(audio), self.codebooks, 0), np.int32)
        return codec._array(codec.quantize(latents, self.codebooks), torch.int32)


class DecoderStream:
    """Codes to audio, block by block."""

    def __init__(self, codec: Encodec, tile: int | None = None) -> None:
        self.codec = codec
        self.network = SeanetStream(codec.decoder, tile, tiles.deep(tile))

    @torch.inference_mode()
    def __call__(self, codes: NDArray[np.int32], last: bool) -> NDArray[np.float32]:
        """codes [B, K, f] -> audio [B, channels, n]: the samples that no later frame will change."""
        codec = self.codec
        latents = codec.dequantize(codec._tensor(codes))
        return codec._array(self.network(latents.mT.to(codec.dtype), last).mT)


def load(
    source: str | Path | Mapping[str, Tensor], config: EncodecConfig, choice: Backend, *, where: str = "codec"
) -> Encodec:
    """A codec from a checkpoint folder, or from tensors by name (weight norm folded or not), in eval mode.

    Tensors that need no change are taken over and not copied. Raises WeightsError that lists every tensor that is
    missing, surplus or mis-shaped; `where` opens the message.
    """
    tensors = source if isinstance(source, Mapping) else keys.read(source, "torch")
    tensors = keys.fold_weight_norm(tensors)
    # Built without memory and then given the checkpoint's own tensors: nothing is initialised only to be overwritten.
    with unfilled():
        model = Encodec(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    keys.check(expected, tensors, where=where, ignorable=IGNORABLE)
    dtype = getattr(torch, choice.dtype)
    state = {name: tensors[name].to(torch.float32 if "codebook" in name else dtype) for name in expected}
    model.load_state_dict(state, assign=True)
    return model.to(choice.device).eval()


def to_checkpoint(model: Encodec) -> dict[str, Tensor]:
    """The tensors of transformers' EncodecModel, weight norm unfolded, on the CPU."""
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    for name in [name for name in tensors if name.endswith("codebook.embed")]:
        stem = name.removesuffix("embed")
        tensors[stem + "inited"] = torch.ones(1)
        tensors[stem + "cluster_size"] = torch.ones(len(tensors[name]))
        tensors[stem + "embed_avg"] = tensors[name].clone()
    if model.config.norm_type == "weight_norm":
        tensors = keys.unfold_weight_norm(tensors, [name for name in tensors if name.endswith("conv.weight")])
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def save(model: Encodec, folder: str | Path, dtype: str = "float32") -> None:
    """Write `config.json` and `model.safetensors` as transformers does; the folder is made when it is not there.

    `dtype` "float16" makes it small: half the size, and without the codebooks' averages, which only their training
    needs. What is loaded from it computes in float32 all the same.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = to_checkpoint(model)
    if dtype != "float32":
        kept = (name for name in tensors if not any(map(partial(fnmatch, name), IGNORABLE)))
        tensors = {name: tensors[name].to(getattr(torch, dtype)) for name in kept}
    with replacing(folder / keys.WEIGHTS, force=True) as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), indent=2) + "\n", encoding="utf-8")
