"""The network: it begins as a plain mix, knows no batch, and is saved and loaded whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hemiola.backend import choose
from hemiola.blend.config import SIZES, BlendConfig
from hemiola.blend.layers_torch import Composer, Tonality, sinusoids
from hemiola.blend.network_torch import Blended, BlendNetwork, load, save
from hemiola.blend.selector_torch import Windows
from hemiola.errors import WeightsError

CONFIG = BlendConfig(latent_dim=4, clip_frames=240, output_frames=32, size="tiny", embedding_dim=6)


def made(learned: bool = False) -> BlendNetwork:
    """A network, whose parameters are all away from 0 where it is to have `learned`."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = BlendNetwork(CONFIG)
        network.fit_latents(torch.tensor([0.0, 1.0, -2.0, 3.0]), torch.tensor([1.0, 2.0, 0.5, 3.0]))
        if learned:
            with torch.no_grad():
                for each in network.parameters():
                    each.add_(0.05 * torch.randn(each.shape))
        return network


def clips(batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    first, second = torch.randn(2, batch, 4, 240, generator=torch.Generator().manual_seed(seed))
    return first, second


def windows(batch: int = 2) -> Windows:
    starts = torch.tensor([[0.0, 50.5, 150.0]]).repeat(batch, 1)
    ratios = torch.tensor([[1.0, 1.25, 0.8]]).repeat(batch, 1)
    return Windows(starts, ratios, starts.flip(1), ratios.flip(1))


def differs(one: Blended, other: Blended) -> float:
    names = ("output", "input_window", "target_window", "components", "strengths")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return max(float((a - b).abs().max()) for a, b in pairs)


def test_shapes() -> None:
    blended = made(learned=True)(*clips())
    assert blended.output.shape == blended.input_window.shape == blended.target_window.shape == (2, 3, 4, 32)
    assert blended.components.shape == (2, 3, 6, 32)
    torch.testing.assert_close(blended.components.sum(2), torch.ones(2, 3, 32))
    assert blended.strengths.shape == (2, 2)
    assert ((blended.strengths > 0) & (blended.strengths < 1)).all()


def test_what_has_learned_nothing_is_the_plain_mix() -> None:
    network = made()
    blended = network.compose(*clips(), windows())
    torch.testing.assert_close(blended.output, (blended.input_window + blended.target_window) / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(blended.components, torch.full((2, 3, 6, 32), 1 / 6))
    same = network.compose(clips()[0], clips()[0], Windows(*windows().parts[:2], *windows().parts[:2]))
    assert torch.equal(same.output, same.input_window)


def test_tonality_and_composer_begin_as_nothing_exactly() -> None:
    window, strength = torch.randn(3, 4, 20), torch.tensor([0.0, 0.5, 1.0])
    assert torch.equal(Tonality(4)(window, strength), window)
    assert not Composer(4, SIZES["tiny"])(torch.randn(2, 6, 16, 20)).any()


def test_each_source_has_a_strength_of_its_own() -> None:
    tonality = Tonality(4)
    torch.nn.init.normal_(tonality.pointwise.weight)
    window = torch.randn(1, 4, 20).expand(3, -1, -1)
    none, half, full = tonality(window, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(none, window[0])
    torch.testing.assert_close(half, (none + full) / 2)
    network = made(learned=True)
    found = network.compose(*clips(), windows()).strengths
    assert (found[:, 0] - found[:, 1]).abs().min() > 1e-4


@pytest.mark.parametrize("training", [True, False])
def test_a_pair_alone_is_the_pair_in_a_batch(training: bool) -> None:
    network = made(learned=True).train(training)
    input, target = clips(3)
    input[1], target[2] = 30 * input[1], 0 * target[2]
    with torch.no_grad():
        together = network.compose(input, target, windows(3))
        for place in range(3):
            alone = network.compose(input[place : place + 1], target[place : place + 1], windows(1))
            part = Blended(
                *(getattr(together, name)[place : place + 1]
                  for name in ("output", "input_window", "target_window", "components")),
                alone.windows, together.strengths[place : place + 1],
            )  # fmt: skip
            assert differs(alone, part) < 2e-4 * float(part.output.abs().max())


def test_looking_changes_nothing() -> None:
    """No running statistic: a forward pass, in training too, leaves every buffer as it was."""
    network = made(learned=True).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first = network(*clips(), network.noise([1, 2]))
    again = network(*clips(), network.noise([1, 2]))
    assert torch.equal(first.output, again.output)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_positions_are_sines_then_cosines() -> None:
    found = sinusoids(5, 4, torch.zeros(1))
    assert found.shape == (5, 4)
    for frame in range(5):
        at = torch.tensor([1.0, 1e-4]) * frame
        torch.testing.assert_close(found[frame], torch.cat([at.sin(), at.cos()]))


# ---- checkpoints


def test_a_network_comes_back_whole(tmp_path: Path) -> None:
    network = made(learned=True)
    save(network, tmp_path / "blend")
    assert BlendConfig.from_dict(json.loads((tmp_path / "blend" / "config.json").read_text())) == CONFIG
    again = load(tmp_path / "blend", CONFIG, choose("torch", "cpu"))
    assert not again.training
    assert again.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in network.state_dict().items())
    # What the lattice is follows from the config, and is in no file.
    assert not any("prior" in name or "starts" in name for name in load_file(tmp_path / "blend" / "model.safetensors"))
    with torch.no_grad():
        assert differs(network.eval()(*clips()), again(*clips())) == 0


@pytest.mark.parametrize("fault", ["missing", "surplus", "mis-shaped"])
def test_a_tensor_that_does_not_fit_is_named(tmp_path: Path, fault: str) -> None:
    save(made(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "composer.enter.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "surplus":
        name = "composer.exit.weight"
        tensors[name] = torch.zeros(3)
    else:
        tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
        load(tmp_path, CONFIG, choose("torch", "cpu"))


def test_a_network_of_another_size_is_refused(tmp_path: Path) -> None:
    save(made(), tmp_path)
    other = BlendConfig.from_dict({**CONFIG.to_dict(), "size": "small"})
    with pytest.raises(WeightsError, match="composer"):
        load(tmp_path, other, choose("torch", "cpu"))


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_a_composer_is_as_wide_and_deep_as_its_size_says(size: str) -> None:
    shape = SIZES[size]
    composer = Composer(128, shape)
    assert composer.enter.weight.shape == (shape.width, 6 * shape.channels)
    assert len(composer.encoder.layers) == shape.layers
    assert [each.self_attn.num_heads for each in composer.encoder.layers] == [shape.heads] * shape.layers
    assert {tuple(each.linear1.weight.shape) for each in composer.encoder.layers} == {(shape.ffn, shape.width)}
    assert [tuple(layer.weight.shape) for layer in (composer.leave[0], composer.leave[2])] == [
        (shape.width // 2, shape.width),
        (128, shape.width // 2),
    ]
