"""EnCodec in torch: SEANet encoder and decoder around a residual vector quantizer. Mirrors encodec_mlx.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from hemiola.backend import Backend
from hemiola.codec import plan
from hemiola.codec.config import EncodecConfig
from hemiola.weights import keys
from hemiola.weights.unfilled_torch import unfilled

# Rows of latents that are compared with a codebook at a time: 4096 x 2048 distances are 32 MB, however long the audio.
BLOCK_ROWS = 4096
# Training state that a published checkpoint carries in its codebooks and that coding has no use for.
IGNORABLE = ("*.codebook.inited", "*.codebook.cluster_size", "*.codebook.embed_avg")


class Conv(nn.Module):
    """A convolution over time, padded to a whole number of strides."""

    def __init__(self, spec: plan.Conv) -> None:
        super().__init__()
        self.spec = spec
        self.conv = nn.Conv1d(spec.inputs, spec.outputs, spec.kernel, spec.stride, dilation=spec.dilation)
        self.norm = nn.GroupNorm(1, spec.outputs) if spec.group_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, T] -> [B, outputs, ceil(T / stride)]."""
        left, right = self.spec.left, self.spec.right + self.spec.extra(x.shape[-1])
        return self.norm(self.conv(pad(x, left, right, self.spec.pad_mode)))


class ConvTranspose(nn.Module):
    """A transposed convolution over time, trimmed to whole strides."""

    def __init__(self, spec: plan.ConvTranspose) -> None:
        super().__init__()
        self.spec = spec
        self.conv = nn.ConvTranspose1d(spec.inputs, spec.outputs, spec.kernel, spec.stride)
        self.norm = nn.GroupNorm(1, spec.outputs) if spec.group_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, T] -> [B, outputs, T * stride].

        The kernel spans two strides, so each stride of outputs is one matrix times a frame and the frame before it.
        On a CPU that product takes half the time of torch's own transposed convolution.
        """
        frames = functional.pad(x.mT, (0, 0, 1, 1))
        pairs = torch.cat([frames[:, 1:], frames[:, :-1]], dim=-1)
        y = functional.linear(pairs, matrix(self.conv.weight), self.conv.bias.repeat(self.spec.stride))
        y = self.norm(y.unflatten(-1, (self.spec.stride, -1)).flatten(1, 2).mT)
        return y[..., self.spec.left : y.shape[-1] - self.spec.right]


class Residual(nn.Module):
    """Two convolutions with a way around them."""

    def __init__(self, spec: plan.Residual) -> None:
        super().__init__()
        first, second = spec.convs
        self.block = nn.ModuleList([nn.ELU(), Conv(first), nn.ELU(), Conv(second)])
        self.shortcut = nn.Identity() if spec.shortcut is None else Conv(spec.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, width, T] -> shortcut(x) + conv(elu(conv(elu(x)))), of the same shape."""
        y = x
        for layer in self.block:
            y = layer(y)
        return self.shortcut(x) + y


class Lstm(nn.Module):
    """A stack of LSTM layers over time with a way around it."""

    def __init__(self, spec: plan.Lstm) -> None:
        super().__init__()
        self.lstm = nn.LSTM(spec.width, spec.width, spec.layers)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, width, T] -> lstm(x) + x, of the same shape."""
        x = x.permute(2, 0, 1)
        # cuDNN refuses backward through an LSTM in eval mode, which is what a frozen codec inside a loss needs.
        frozen = torch.is_grad_enabled() and not self.training
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and not frozen):
            y = self.lstm(x)[0]
        return (y + x).permute(1, 2, 0)


class Elu(nn.ELU):
    """x, or exp(x) - 1 where x is negative."""

    def __init__(self, spec: plan.Elu) -> None:
        super().__init__()


LAYERS: dict[type, type[nn.Module]] = {
    plan.Conv: Conv,
    plan.ConvTranspose: ConvTranspose,
    plan.Residual: Residual,
    plan.Lstm: Lstm,
    plan.Elu: Elu,
}


class Seanet(nn.Module):
    """A plan, built and run in order."""

    def __init__(self, specs: plan.Plan) -> None:
        super().__init__()
        self.layers = nn.ModuleList([LAYERS[type(spec)](spec) for spec in specs])

    def forward(self, x: Tensor) -> Tensor:
        """Audio [B, channels, samples] -> latents [B, D, F] for an encoder, and back for a decoder."""
        for layer in self.layers:
            x = layer(x)
        return x


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
        return torch.addmm(embed.square().sum(1), x, embed.T, alpha=-2).argmin(1)


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
        return x.reshape(batch, frames, -1).swapaxes(1, 2)

    def synthesize(self, latents: Tensor) -> Tensor:
        """latents [B, D, F] -> audio [B, channels, F * hop]; differentiable."""
        return self.decoder(latents.to(self.dtype))

    @torch.inference_mode()
    def latents_array(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `latents`, from numpy to numpy."""
        return self._array(self.latents(self._tensor(audio)))

    @torch.inference_mode()
    def encode_array(self, audio: NDArray[np.float32], codebooks: int) -> NDArray[np.int32]:
        """audio [B, channels, samples] -> codes [B, codebooks, F], in numpy."""
        codes = self.quantize(self.latents(self._tensor(audio)), codebooks)
        return codes.to(torch.int32).cpu().numpy()

    @torch.inference_mode()
    def decode_array(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """codes [B, K, F] -> audio [B, channels, F * hop], in numpy."""
        return self._array(self.synthesize(self.dequantize(self._tensor(codes))))

    def _tensor(self, array: NDArray) -> Tensor:
        return torch.tensor(array, device=next(self.decoder.parameters()).device)

    def _array(self, x: Tensor) -> NDArray[np.float32]:
        return x.float().cpu().numpy()


def pad(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """Pad the last axis by `left` and `right`, by reflection or ("constant") zeros."""
    if left == 0 and right == 0:
        return x
    # A reflection needs more samples than it mirrors: a short input gets zeros first, which are cut off again.
    short = max(0, max(left, right) + 1 - x.shape[-1]) if mode == "reflect" else 0
    if short:
        x = functional.pad(x, (0, short))
    x = functional.pad(x, (left, right), mode)
    return x[..., : x.shape[-1] - short] if short else x


def matrix(weight: Tensor) -> Tensor:
    """A transposed convolution's weight [inputs, outputs, 2 * stride] -> [stride * outputs, 2 * inputs].

    A row is one output of one moment in the stride; its columns weigh a frame and the frame before it.
    """
    inputs, outputs, kernel = weight.shape
    halves = weight.reshape(inputs, outputs, 2, kernel // 2)
    return halves.permute(3, 1, 2, 0).reshape(kernel // 2 * outputs, 2 * inputs)


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


def save(model: Encodec, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors` as transformers does; the folder is made when it is not there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(to_checkpoint(model), folder / keys.WEIGHTS, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), indent=2) + "\n", encoding="utf-8")
