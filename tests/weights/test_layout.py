"""From the checkpoint's axes to MLX's: against torch's layers, and against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch

from hemiola.weights import layout

RNG = np.random.default_rng(0)


def test_a_convolution_has_its_channels_last() -> None:
    weight = RNG.normal(size=(3, 2, 5))
    moved = layout.to_mlx({"layers.0.conv.weight": weight, "layers.0.conv.bias": weight[:, 0, 0]}, ())
    assert moved["layers.0.conv.bias"] is not None
    x = RNG.normal(size=(2, 9))
    wanted = torch.nn.functional.conv1d(torch.tensor(x)[None], torch.tensor(weight))[0].numpy()
    # [out, kernel, in] applied to windows [time, kernel, in].
    windows = np.stack([x.T[start : start + 5] for start in range(5)])
    found = np.einsum("oki,tki->ot", moved["layers.0.conv.weight"], windows)
    np.testing.assert_allclose(found, wanted)


def test_a_transposed_convolution_has_its_outputs_first() -> None:
    weight = RNG.normal(size=(2, 3, 4))  # [in, out, kernel]
    moved = layout.to_mlx({"conv.weight": weight}, {"conv.weight"})["conv.weight"]
    x = RNG.normal(size=(2, 6))
    wanted = torch.nn.functional.conv_transpose1d(torch.tensor(x)[None], torch.tensor(weight))[0].numpy()
    found = [sum(scipy.signal.convolve(x[i], moved[o, :, i]) for i in range(2)) for o in range(3)]
    np.testing.assert_allclose(found, wanted)


def test_an_lstm_adds_its_biases_and_is_numbered_by_index() -> None:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    tensors = {f"layers.9.lstm.{name}_l{layer}": RNG.normal(size=(4, 3)) for layer in (0, 1) for name in names}
    moved = layout.to_mlx(tensors, ())
    assert set(moved) == {f"layers.9.lstm.{layer}.{name}" for layer in (0, 1) for name in ("Wx", "Wh", "bias")}
    for layer in (0, 1):
        theirs = {name: tensors[f"layers.9.lstm.{name}_l{layer}"] for name in names}
        np.testing.assert_array_equal(moved[f"layers.9.lstm.{layer}.Wx"], theirs["weight_ih"])
        np.testing.assert_array_equal(moved[f"layers.9.lstm.{layer}.Wh"], theirs["weight_hh"])
        np.testing.assert_array_equal(moved[f"layers.9.lstm.{layer}.bias"], theirs["bias_ih"] + theirs["bias_hh"])


def test_what_is_alike_in_both_is_the_same_object() -> None:
    tensors = {name: RNG.normal(size=(3, 2)) for name in ("q_proj.weight", "norm.weight", "a.codebook.embed")}
    for name, tensor in layout.to_mlx(tensors, ()).items():
        assert tensor is tensors[name]


@pytest.mark.parametrize("transposed", [set(), {"a.conv.weight"}])
def test_shapes_go_back_to_the_checkpoint(transposed: set[str]) -> None:
    checkpoint = {
        "a.conv.weight": (6, 4, 3),
        "a.conv.bias": (4,),
        "b.lstm.weight_ih_l0": (8, 2),
        "b.lstm.weight_hh_l0": (8, 2),
        "b.lstm.bias_ih_l0": (8,),
        "b.lstm.bias_hh_l0": (8,),
        "c.embed": (5, 4),
    }
    moved = layout.to_mlx({name: np.zeros(shape) for name, shape in checkpoint.items()}, transposed)
    shapes = {name: tensor.shape for name, tensor in moved.items()}
    assert shapes["a.conv.weight"] == ((4, 3, 6) if transposed else (6, 3, 4))
    assert layout.checkpoint_shapes(shapes, transposed) == checkpoint
