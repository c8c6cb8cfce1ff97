"""Convolutions in compiled products are torch's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

pytest.importorskip("numba")

from hemiola.codec import plan
from hemiola.codec.config import EncodecConfig
from hemiola.codec.conv_compiled_torch import CompiledProduct, CompiledUpsampling, fits, group_normed
from hemiola.codec.encodec_torch import DecoderStream, Encodec, EncoderStream
from hemiola.codec.stream_compiled_torch import CompiledConvStream, CompiledResidualStream
from hemiola.codec.stream_torch import ConvStream, ResidualStream
from hemiola.kernels import compiling_numba
from hemiola.kernels.tile_numba import WHOLES, supported

if not supported(WHOLES):
    pytest.skip("this processor has no AVX-512", allow_module_level=True)

NEAR = 2e-6  # of the largest value


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def apart(found: Tensor, exact: Tensor) -> float:
    assert found.shape == exact.shape
    return float((found - exact).abs().max() / exact.abs().max())


def convolved(conv: torch.nn.Conv1d, x: Tensor, activated: bool) -> Tensor:
    """x [B, T, inputs] -> [B, m, outputs], in double precision."""
    x, weight, bias = (functional.elu(x) if activated else x).double(), conv.weight.double(), conv.bias.double()
    return functional.conv1d(x.mT, weight, bias, conv.stride).mT


@torch.inference_mode()
@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride"),
    [
        *((32, 16, 3, 1), (64, 80, 1, 1), (16, 128, 7, 1), (160, 16, 16, 1)),
        *((32, 16, 4, 2), (48, 32, 8, 4), (32, 48, 10, 5), (16, 64, 16, 8)),
        *((1, 32, 7, 1), (2, 64, 7, 1), (64, 1, 7, 1), (32, 2, 7, 1)),
    ],
)
def test_a_product_is_torchs_convolution(inputs: int, outputs: int, kernel: int, stride: int, activated: bool) -> None:
    torch.manual_seed(inputs)
    conv = torch.nn.Conv1d(inputs, outputs, kernel, stride)
    product = CompiledProduct(conv, stride)
    for length in (kernel, kernel + 1, 73, 731):
        x = torch.randn(2, max(length, kernel), inputs)
        exact = convolved(conv, x, activated)
        for cut in (0, 1, kernel, x.shape[1]):
            assert apart(product((x[:, :cut], x[:, cut:]), activated, exact.shape[1]), exact) < NEAR
            pieces = x[:, : cut // 2], x[:, cut // 2 : cut], x[:, cut:]
            assert apart(product(pieces, activated, exact.shape[1]), exact) < NEAR
        onto = torch.randn_like(exact, dtype=torch.float32)
        found = product((x[:, :1], x[:, 1:]), activated, exact.shape[1], (onto[:, :2], onto[:, 2:]))
        assert apart(found, exact + onto) < NEAR


@torch.inference_mode()
@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(32, 16, 2), (48, 32, 5), (64, 32, 4), (16, 8, 8)])
def test_a_product_is_torchs_transposed_convolution(inputs: int, outputs: int, stride: int, activated: bool) -> None:
    torch.manual_seed(stride)
    conv = torch.nn.ConvTranspose1d(inputs, outputs, 2 * stride, stride)
    product = CompiledUpsampling(conv, stride)
    for length in (2, 3, 41, 733):
        x = torch.randn(2, length, inputs)
        rows = (functional.elu(x) if activated else x).double().mT
        exact = functional.conv_transpose1d(rows, conv.weight.double(), conv.bias.double(), stride).mT
        exact = exact[:, stride : length * stride]  # what two frames have a part in
        assert apart(product((x[:, :1], x[:, 1:]), activated), exact) < NEAR


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.sampled_from([1, 3, 7]),
    length=st.integers(7, 400),
    rows=st.integers(1, 3),
    width=st.sampled_from([16, 32, 80]),
)
@torch.inference_mode()
def test_two_products_in_one_are_the_two(kernel: int, length: int, rows: int, width: int) -> None:
    torch.manual_seed(length)
    first, second = torch.nn.Conv1d(32, width, kernel), torch.nn.Conv1d(width, 48, 1)
    x, count = torch.randn(rows, length, 32), length - kernel + 1
    onto = torch.randn(rows, count, 48)
    exact = functional.elu(convolved(first, x, True))
    exact = functional.conv1d(exact.mT, second.weight.double(), second.bias.double()).mT + onto
    products = CompiledProduct(first, 1), CompiledProduct(second, 1)
    found = products[0]((x[:, :5], x[:, 5:]), True, count, (onto[:, :0], onto), products[1])
    assert apart(found, exact) < NEAR


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 3),
    length=st.integers(2, 700),
    width=st.sampled_from([1, 2, 32, 80]),
    middle=st.sampled_from([0.0, -3.0, 300.0]),
    adding=st.booleans(),
)
@torch.inference_mode()
def test_a_norm_is_torchs_group_norm(rows: int, length: int, width: int, middle: float, adding: bool) -> None:
    torch.manual_seed(length)
    norm = torch.nn.GroupNorm(1, width)
    norm.weight.copy_(torch.randn(width))
    norm.bias.copy_(torch.randn(width))
    x = torch.randn(rows, length, width) * torch.tensor([0.1, 1, 30])[:rows, None, None] + middle
    onto = torch.randn(rows, length, width) if adding else None
    exact = functional.group_norm(x.double().mT, 1, norm.weight.double(), norm.bias.double(), norm.eps).mT
    exact = exact if onto is None else exact + onto
    # What is rounded of x itself is as much as the mean is larger than what is away from it.
    near = NEAR * (1 + abs(middle) / float(x.std(dim=(1, 2), correction=0).min().clamp(min=1e-3)))
    assert (group_normed(x.clone(), norm, onto) - exact).abs().max() < near * exact.abs().max()


@torch.inference_mode()
def test_what_is_not_normed_is_left_or_added_to() -> None:
    x, onto = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    assert group_normed(x, torch.nn.Identity()) is x
    assert torch.equal(group_normed(x, torch.nn.Identity(), onto), onto + x)


@torch.inference_mode()
def test_activation_is_torchs_for_any_number() -> None:
    conv = torch.nn.Conv1d(16, 16, 1)
    conv.weight.copy_(torch.eye(16)[..., None])
    conv.bias.zero_()
    numbers = np.concatenate([-np.logspace(-30, 30, 4000), [0, -0.0], np.logspace(-30, 30, 3998)])
    x = torch.tensor(numbers, dtype=torch.float32).reshape(1, -1, 16)
    found = CompiledProduct(conv, 1)((x[:, :0], x), True, x.shape[1])
    assert ((found - functional.elu(x.double())).abs() <= 2e-7 * x.abs().clamp(1e-30, 1) + 1e-7).all()
    assert torch.equal(found[x > 0], x[x > 0])


@torch.inference_mode()
@pytest.mark.parametrize("length", [7, 1501])
def test_how_many_threads_share_the_work_changes_no_bit(length: int, threads: Callable[[int], None]) -> None:
    conv, after = torch.nn.Conv1d(48, 80, 3), torch.nn.Conv1d(80, 48, 1)
    products = CompiledProduct(conv, 1), CompiledProduct(after, 1)
    x, found = torch.randn(2, length, 48), []
    for count in (1, 2, 3, 5):
        threads(count)
        found.append(products[0]((x[:, :3], x[:, 3:]), True, length - 2, None, products[1]))
    assert all(torch.equal(found[0], each) for each in found[1:])


def wide(**options: object) -> EncodecConfig:
    shape = {"num_filters": 32, "hidden_size": 16, "codebook_size": 16, "upsampling_ratios": (4, 2)}
    return EncodecConfig(**{**shape, "target_bandwidths": (1.2,), **options})


CONFIGS = {
    "causal": wide(),
    "centred": wide(use_causal_conv=False, use_conv_shortcut=False, upsampling_ratios=(5, 4)),
    "constant": wide(pad_mode="constant", use_causal_conv=False),
    "dilated": wide(num_residual_layers=2),
    "trimmed": wide(trim_right_ratio=0.5, audio_channels=2),
    "group norm": wide(norm_type="time_group_norm", use_causal_conv=False, audio_channels=2),
    "odd": wide(num_filters=36),
}


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_blocks_of_a_wide_codec_join_to_the_whole(name: str) -> None:
    torch.manual_seed(len(name))
    model, rng = Encodec(CONFIGS[name]).eval(), np.random.default_rng(0)
    for parameter in model.parameters():
        parameter *= 1.5  # as initialised, a signal fades on its way
    whole_only = name == "group norm"
    for samples in (1, 2, 63, 1021):
        audio = rng.standard_normal((2, model.config.audio_channels, samples)).astype(np.float32)
        latents = model.latents(torch.tensor(audio))
        for size in (samples,) if whole_only else (samples, 1 + samples // 4):
            feed = EncoderStream(model)
            blocks = range(0, samples, size)
            found = [feed(audio[..., each : each + size], each + size >= samples) for each in blocks]
            assert apart(torch.tensor(np.concatenate(found, axis=-1)), latents) < 1e-5
    for frames in (1, 2, 9, 77):
        codes = rng.integers(0, 16, (2, 2, frames)).astype(np.int32)
        exact = model.synthesize(model.dequantize(torch.tensor(codes)))
        for size in (frames,) if whole_only else (frames, 1 + frames // 4, 1):
            decode, blocks = DecoderStream(model), range(0, frames, size)
            found = [decode(codes[..., each : each + size], each + size >= frames) for each in blocks]
            assert apart(torch.tensor(np.concatenate(found, axis=-1)), exact) < 1e-5


def test_torch_carries_out_what_kernels_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    def kinds(config: EncodecConfig, dtype: torch.dtype = torch.float32) -> set[type]:
        steps = EncoderStream(Encodec(config).to(dtype)).network.steps
        return {type(step) for step in steps if isinstance(step, (ConvStream, ResidualStream, CompiledResidualStream))}

    ours, torchs = {CompiledConvStream, CompiledResidualStream}, {ConvStream, ResidualStream}
    assert kinds(wide()) == ours
    assert kinds(wide(num_residual_layers=2)) == ours | {ResidualStream}  # the second is dilated
    assert kinds(wide(num_filters=16)) == torchs  # too small to be worth it
    assert kinds(wide(), torch.bfloat16) == torchs
    spec = plan.Conv(16, 24, 3, 1, 1, 2, 0, "reflect", False)
    assert not fits(torch.nn.Conv1d(16, 24, 3), spec)
    with monkeypatch.context() as patch:
        patch.setattr(compiling_numba.llvm, "get_host_cpu_features", lambda: {"avx2": True})
        assert kinds(wide()) == torchs
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="numba cannot be loaded"):
        patch.setitem(sys.modules, "hemiola.codec.stream_compiled_torch", None)
        assert kinds(wide()) == torchs
    broken = torch.nn.Conv1d(16, 16, 3)
    assert fits(broken, plan.Conv(16, 16, 3, 1, 1, 2, 0, "reflect", False))
    with torch.no_grad():
        broken.weight[4, 5, 1] = torch.nan  # torch passes it on for all to see
    assert not fits(broken, plan.Conv(16, 16, 3, 1, 1, 2, 0, "reflect", False))
