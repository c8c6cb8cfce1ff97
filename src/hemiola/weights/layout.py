"""From a checkpoint's axes to MLX's: channels last in convolutions, one bias where an LSTM has two.

A checkpoint has torch's layout. Linear layers, embeddings and norms are the same in both. Works on names, shapes and
on any arrays that have `transpose`, so there is no framework in here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

Shape = tuple[int, ...]

# A convolution's weight is [out, in, kernel] in the checkpoint, a transposed one's [in, out, kernel]; MLX has both as
# [out, kernel, in].
_CONV_AXES = (0, 2, 1)
_TRANSPOSED_AXES = (1, 2, 0)
_CONV = re.compile(r"(?:.*\.)?conv\.weight")
# Both order an LSTM's gates as input, forget, cell, output. The layers of a stack are numbered by a suffix in the
# checkpoint and by an index in MLX.
_LSTM = re.compile(r"(?P<stem>.*\.lstm)\.(?P<part>weight_ih|weight_hh|bias_ih|bias_hh)_l(?P<layer>\d+)")
_LSTM_PARTS = {"Wx": ("weight_ih",), "Wh": ("weight_hh",), "bias": ("bias_ih", "bias_hh")}
_MLX_LSTM = re.compile(r"(?P<stem>.*\.lstm)\.(?P<layer>\d+)\.(?P<part>Wx|Wh|bias)")


def to_mlx(tensors: Mapping[str, Any], transposed: Collection[str]) -> dict[str, Any]:
    """A checkpoint's tensors under the names and in the layout of MLX modules.

    `transposed` names the weights of transposed convolutions: a name alone does not tell them from the others.
    An LSTM's two biases are only ever added, so they become their sum.
    """
    moved: dict[str, Any] = {}
    for name, tensor in tensors.items():
        match = _LSTM.fullmatch(name)
        if match is None:
            moved[name] = tensor.transpose(_axes(name, transposed)) if _CONV.fullmatch(name) else tensor
            continue
        part = next(ours for ours, theirs in _LSTM_PARTS.items() if match["part"] in theirs)
        renamed = f"{match['stem']}.{match['layer']}.{part}"
        moved[renamed] = moved[renamed] + tensor if renamed in moved else tensor
    return moved


def checkpoint_shapes(shapes: Mapping[str, Shape], transposed: Collection[str]) -> dict[str, Shape]:
    """The inverse for names and shapes: what a checkpoint must hold for MLX modules with parameters of `shapes`."""
    wanted: dict[str, Shape] = {}
    for name, shape in shapes.items():
        match = _MLX_LSTM.fullmatch(name)
        if match is not None:
            for part in _LSTM_PARTS[match["part"]]:
                wanted[f"{match['stem']}.{part}_l{match['layer']}"] = tuple(shape)
        elif _CONV.fullmatch(name):
            axes = _axes(name, transposed)
            wanted[name] = tuple(shape[axes.index(axis)] for axis in range(len(shape)))
        else:
            wanted[name] = tuple(shape)
    return wanted


def _axes(name: str, transposed: Collection[str]) -> tuple[int, int, int]:
    return _TRANSPOSED_AXES if name in transposed else _CONV_AXES
