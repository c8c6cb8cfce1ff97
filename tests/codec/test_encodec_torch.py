"""The torch network by itself: gradients, quantizer, strict loading."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from hemiola.backend import Backend
from hemiola.codec import encodec_torch, plan
from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import Encodec
from hemiola.codec.seanet_torch import ConvTranspose
from hemiola.errors import WeightsError

CPU = Backend("torch", "cpu", "float32")
SMALL = {"sampling_rate": 1200, "upsampling_ratios": (3, 2), "num_filters": 4, "hidden_size": 6, "codebook_size": 16}
CAUSAL = EncodecConfig(**SMALL, target_bandwidths=(0.8, 2.4))
NORMED = EncodecConfig(**SMALL, target_bandwidths=(2.4,), use_causal_conv=False, norm_type="time_group_norm")


def random_model(config: EncodecConfig) -> Encodec:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Encodec(config).eval()


def noise(*shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("config", [CAUSAL, NORMED], ids=["causal", "normed"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("direction", ["latents", "synthesize"])
def test_a_frozen_codec_passes_gradients_equal_to_finite_differences(config, training, direction):
    model = random_model(config).double().train(training).requires_grad_(False)
    function = getattr(model, direction)
    x = noise(2, *((1, 31) if direction == "latents" else (6, 7)), dtype=torch.float64).requires_grad_()
    weights = noise(*function(x).shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((function(x) * weights).sum(), x)
    step = 1e-6 * noise(*x.shape, dtype=torch.float64).flip(-1)
    with torch.no_grad():
        difference = ((function(x + step) - function(x - step)) * weights).sum()
    torch.testing.assert_close(difference, 2 * (gradient * step).sum(), rtol=1e-5, atol=1e-12)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("training", "gradients", "expected"), [(False, True, False), (False, False, True), (True, True, True)]
)
def test_cudnn_is_off_for_an_lstm_that_is_frozen_and_differentiated(training, gradients, expected):
    model, seen = random_model(CAUSAL).train(training), []
    lstm = next(module for module in model.decoder.modules() if isinstance(module, torch.nn.LSTM))
    lstm.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.enabled))
    with torch.set_grad_enabled(gradients):
        model.synthesize(noise(1, 6, 3))
    assert seen == [expected]
    assert torch.backends.cudnn.enabled


def residual_codes(rows: np.ndarray, tables: list[np.ndarray]) -> list[np.ndarray]:
    """Residual coding by the book, in float64."""
    codes = []
    for table in tables:
        codes.append(cdist(rows, table).argmin(1))
        rows = rows - table[codes[-1]]
    return codes


@pytest.mark.parametrize("block_rows", [7, 4096])
@pytest.mark.parametrize("codebooks", [1, 3])
def test_codes_are_the_nearest_entries_in_turn(block_rows, codebooks, monkeypatch):
    monkeypatch.setattr(encodec_torch, "BLOCK_ROWS", block_rows)
    model = random_model(CAUSAL)
    latents = noise(2, 6, 25)
    before = latents.clone()
    codes = model.quantize(latents, codebooks)
    assert codes.dtype == torch.int64
    tables = [codebook.embed.double().numpy() for codebook in model.quantizer.codebooks[:codebooks]]
    for row, item in zip(codes.numpy(), latents.double().numpy()):
        np.testing.assert_array_equal(row, residual_codes(item.T, tables))
    summed = sum(torch.tensor(table)[index] for table, index in zip(tables, codes.transpose(0, 1)))
    torch.testing.assert_close(model.dequantize(codes), summed.transpose(1, 2).float())
    assert torch.equal(latents, before)


def test_codes_do_not_depend_on_autocast():
    model, latents = random_model(CAUSAL), noise(2, 6, 200)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.quantize(latents, 3)
    assert torch.equal(half, model.quantize(latents, 3))


def test_a_batch_is_its_items():
    model, audio = random_model(CAUSAL), noise(3, 1, 101)
    together = model.latents(audio)
    for item, latents in zip(audio, together):
        torch.testing.assert_close(model.latents(item[None])[0], latents, rtol=1e-5, atol=1e-6)


def test_a_causal_codec_codes_the_past_alike_whatever_comes():
    # Seven frames or more: what is reflected before the start is then all there.
    model, audio = random_model(CAUSAL), noise(1, 1, 72)
    torch.testing.assert_close(model.latents(audio[..., :42]), model.latents(audio)[..., :7], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [CAUSAL, NORMED], ids=["causal", "normed"])
def test_what_is_written_is_read_again(config, tmp_path):
    model = random_model(config)
    encodec_torch.save(model, tmp_path / "new" / "folder")
    again = encodec_torch.load(tmp_path / "new" / "folder", config, CPU)
    assert not again.training
    assert list(again.state_dict()) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)


def test_a_loaded_model_can_be_trained():
    model = encodec_torch.load(encodec_torch.to_checkpoint(random_model(CAUSAL)), CAUSAL, CPU).train()
    model.synthesize(model.latents(noise(2, 1, 30))).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_networks_take_the_dtype_and_codebooks_do_not():
    model = encodec_torch.load(random_model(CAUSAL).state_dict(), CAUSAL, Backend("torch", "cpu", "bfloat16"))
    assert model.dtype == torch.bfloat16
    assert model.latents(noise(1, 1, 12)).dtype == torch.bfloat16
    assert {codebook.embed.dtype for codebook in model.quantizer.codebooks} == {torch.float32}
    codes = model.encode_array(noise(2, 1, 13).numpy(), 3)
    assert model.decode_array(codes).dtype == np.float32


def test_every_tensor_that_does_not_fit_is_named():
    tensors = encodec_torch.to_checkpoint(random_model(CAUSAL))
    del tensors["decoder.layers.1.lstm.bias_hh_l1"]
    tensors["encoder.layers.99.conv.bias"] = torch.zeros(3)
    tensors["quantizer.layers.2.codebook.embed"] = torch.zeros(16, 5)
    with pytest.raises(WeightsError) as raised:
        encodec_torch.load(tensors, CAUSAL, CPU, where="my/codec")
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("my/codec: ")
    assert any("missing" in line and "decoder.layers.1.lstm.bias_hh_l1" in line for line in lines)
    assert any("surplus" in line and "encoder.layers.99.conv.bias" in line for line in lines)
    assert any("mis-shaped" in line and "quantizer.layers.2.codebook.embed is [16, 5]" in line for line in lines)


def test_a_codebook_more_is_surplus_with_its_embed_only():
    tensors = random_model(CAUSAL).state_dict()
    tensors["quantizer.layers.3.codebook.embed"] = torch.zeros(16, 6)
    tensors["quantizer.layers.3.codebook.inited"] = torch.ones(1)
    with pytest.raises(WeightsError, match="1 surplus"):
        encodec_torch.load(tensors, CAUSAL, CPU)


@pytest.mark.parametrize(("stride", "left", "right"), [(1, 0, 1), (2, 1, 1), (3, 2, 1), (4, 0, 4), (5, 2, 3)])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_transposed_convolution_and_its_gradients_are_torchs_own(stride, left, right, length):
    layer = ConvTranspose(plan.ConvTranspose(6, 4, 2 * stride, stride, left, right, group_norm=False))
    x = noise(3, 6, length).requires_grad_()
    found, whole = layer(x), layer.conv(x)
    expected = whole[..., left : whole.shape[-1] - right]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weights, inputs = noise(*expected.shape), (x, layer.conv.weight, layer.conv.bias)
    ours = torch.autograd.grad((found * weights).sum(), inputs)
    torch.testing.assert_close(ours, torch.autograd.grad((expected * weights).sum(), inputs), rtol=1e-5, atol=1e-5)
