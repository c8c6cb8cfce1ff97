"""EnCodec in MLX: SEANet encoder and decoder around a residual vector quantizer. Mirrors encodec_torch.py.

The layers have their channels last, as MLX has: what is [B, C, T] in torch is [B, T, C]. `Encodec` itself has them
where torch has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.core import array as Tensor
from mlx.utils import tree_flatten
from numpy.typing import NDArray

from hemiola.backend import Backend, on_device
from hemiola.codec import plan, tiles
from hemiola.codec.config import EncodecConfig
from hemiola.codec.seanet_mlx import Seanet
from hemiola.codec.stream_mlx import SeanetStream
from hemiola.weights import keys, layout

# Rows of latents that are compared with a codebook at a time: 4096 x 2048 distances are 32 MB, however long the audio.
BLOCK_ROWS = 4096
# Training state that a published checkpoint carries in its codebooks and that coding has no use for.
IGNORABLE = ("*.codebook.inited", "*.codebook.cluster_size", "*.codebook.embed_avg")


class Codebook(nn.Module):
    """One table of vectors, `embed` [size, D]."""

    embed: Tensor

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        self.embed = mx.zeros((config.codebook_size, config.hidden_size))

    def nearest(self, x: Tensor) -> Tensor:
        """x [N, D] -> index of the entry at the smallest distance [N]; both in float32."""
        embed = self.embed.astype(mx.float32)
        # |x - e|^2 without |x|^2, which is the same for every entry.
        return mx.addmm(embed.square().sum(1), x, embed.T, alpha=-2).argmin(1)


class CodebookLayer(nn.Module):
    """Holds a codebook under the name that it has in a checkpoint."""

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        self.codebook = Codebook(config)


class Quantizer(nn.Module):
    """Residual vector quantizer: each codebook codes what the ones before it left over."""

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        self.layers = [CodebookLayer(config) for _ in range(config.codebooks)]

    @property
    def codebooks(self) -> list[Codebook]:
        """The tables in the order in which they code."""
        return [layer.codebook for layer in self.layers]

    def encode(self, x: Tensor, codebooks: int) -> Tensor:
        """x [N, D] float32 -> codes [codebooks, N]."""
        blocks = []
        for start in range(0, len(x), BLOCK_ROWS):
            rows, codes = x[start : start + BLOCK_ROWS], []
            for codebook in self.codebooks[:codebooks]:
                codes.append(codebook.nearest(rows))
                rows = rows - codebook.embed[codes[-1]]
            blocks.append(mx.stack(codes))
        return mx.concatenate(blocks, axis=1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes [K, N] -> the sum of their entries [N, D]."""
        first, *others = zip(self.codebooks, codes)
        x = first[0].embed[first[1]]
        for codebook, indices in others:
            x = x + codebook.embed[indices]
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
    def dtype(self) -> mx.Dtype:
        """What the networks compute in; the codebooks stay in float32."""
        return self.decoder.layers[0].conv.weight.dtype

    def latents(self, audio: Tensor) -> Tensor:
        """audio [B, channels, samples] -> latents [B, D, ceil(samples / hop)]; differentiable."""
        return self.encoder(audio.swapaxes(1, 2).astype(self.dtype)).swapaxes(1, 2)

    def quantize(self, latents: Tensor, codebooks: int) -> Tensor:
        """latents [B, D, F] -> codes [B, codebooks, F] uint32, in float32 whatever the latents are."""
        batch, width, frames = latents.shape
        x = latents.swapaxes(1, 2).reshape(-1, width).astype(mx.float32)
        codes = self.quantizer.encode(x, codebooks)
        return codes.reshape(codebooks, batch, frames).swapaxes(0, 1)

    def dequantize(self, codes: Tensor) -> Tensor:
        """codes [B, K, F] integers -> latents [B, D, F] float32."""
        batch, codebooks, frames = codes.shape
        x = self.quantizer.decode(codes.swapaxes(0, 1).reshape(codebooks, -1))
        return x.reshape(batch, frames, self.config.hidden_size).swapaxes(1, 2)

    def synthesize(self, latents: Tensor) -> Tensor:
        """latents [B, D, F] -> audio [B, channels, F * hop]; differentiable."""
        return self.decoder(latents.swapaxes(1, 2).astype(self.dtype)).swapaxes(1, 2)

    def latents_array(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `latents`, from numpy to numpy and tile after tile."""
        return self._encoded(audio, None)

    def encode_array(self, audio: NDArray[np.float32], codebooks: int) -> NDArray[np.int32]:
        """audio [B, channels, samples] -> codes [B, codebooks, F], in numpy and tile after tile."""
        return self._encoded(audio, codebooks)

    def _encoded(self, audio: NDArray[np.float32], codebooks: int | None) -> NDArray[Any]:
        return tiles.encode(EncoderStream(self, codebooks), audio, self.config, self._tile(len(audio)))

    def decode_array(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """codes [B, K, F] -> audio [B, channels, F * hop], in numpy and tile after tile."""
        return tiles.decode(DecoderStream(self), codes, self.config, self._tile(len(codes)))

    def encoder_stream(self, codebooks: int) -> EncoderStream:
        """What makes codes of audio that comes in blocks."""
        return EncoderStream(self, codebooks)

    def decoder_stream(self) -> DecoderStream:
        """What makes audio of codes that come in blocks."""
        return DecoderStream(self)

    def _tensor(self, array: NDArray) -> Tensor:
        return mx.array(array)

    def _array(self, x: Tensor, dtype: mx.Dtype = mx.float32) -> NDArray[Any]:
        array = np.array(x.astype(dtype))
        # Give back memory that only so long a piece of audio needs.
        mx.clear_cache()
        return array

    def _tile(self, rows: int) -> int | None:
        return tiles.tile_frames(self.config, rows, tiles.CACHE_BYTES if self.device == "cpu" else tiles.DEVICE_BYTES)


class EncoderStream:
    """Audio to codes, block by block; without `codebooks`, to latents."""

    def __init__(self, codec: Encodec, codebooks: int | None = None) -> None:
        self.codec, self.codebooks, self.device = codec, codebooks, codec.device
        self.network = SeanetStream(codec.encoder)

    @on_device
    def __call__(self, audio: NDArray[np.float32], last: bool) -> NDArray[Any]:
        """audio [B, channels, n] -> codes [B, codebooks, f] or latents [B, D, f]: the frames that are final by now."""
        codec = self.codec
        latents = self.network(codec._tensor(audio).swapaxes(1, 2).astype(codec.dtype), last).swapaxes(1, 2)
        if self.codebooks is None:
            return codec._array(latents)
        if latents.shape[-1] == 0:
            return np.empty((len(audio), self.codebooks, 0), np.int32)
        return codec._array(codec.quantize(latents, self.codebooks), mx.int32)


class DecoderStream:
    """Codes to audio, block by block."""

    def __init__(self, codec: Encodec) -> None:
        self.codec, self.device = codec, codec.device
        self.network = SeanetStream(codec.decoder)

    @on_device
    def __call__(self, codes: NDArray[np.int32], last: bool) -> NDArray[np.float32]:
        """codes [B, K, f] -> audio [B, channels, n]: the samples that no later frame will change."""
        codec = self.codec
        latents = codec.dequantize(codec._tensor(codes))
        return codec._array(self.network(latents.swapaxes(1, 2).astype(codec.dtype), last).swapaxes(1, 2))


def load(
    source: str | Path | Mapping[str, Tensor], config: EncodecConfig, choice: Backend, *, where: str = "codec"
) -> Encodec:
    """A codec from a checkpoint folder, or from tensors by name (weight norm folded or not), in eval mode.

    Raises WeightsError that lists every tensor that is missing, surplus or mis-shaped; `where` opens the message.
    """
    with mx.stream(getattr(mx, choice.device)):
        tensors = source if isinstance(source, Mapping) else keys.read(source, "mlx")
        tensors = keys.fold_weight_norm(tensors)
        # Nothing is computed before it is asked for: what these modules are initialised with never is.
        model = Encodec(config)
        model.device = choice.device
        parameters: dict[str, Tensor] = dict(tree_flatten(model.parameters()))
        transposed = [f"{name}.weight" for name, each in model.named_modules() if isinstance(each, nn.ConvTranspose1d)]
        expected = layout.checkpoint_shapes({name: each.shape for name, each in parameters.items()}, transposed)
        keys.check(expected, tensors, where=where, ignorable=IGNORABLE)
        tensors = layout.to_mlx({name: tensors[name] for name in expected}, transposed)
        dtype = getattr(mx, choice.dtype)
        state = {name: tensors[name].astype(mx.float32 if "codebook" in name else dtype) for name in parameters}
        model.load_weights(list(state.items()))
        # Read here and now: what is left lazy belongs to this thread, and a server's others could not use it.
        mx.eval(model.parameters())
        model.eval()
    return model
