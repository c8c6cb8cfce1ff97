"""An LSTM in compiled steps is torch's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from hemiola.codec.lstm_compiled_torch import CompiledLstm, fits, threes
from hemiola.codec.lstm_torch import TorchLstm, lstm_steps, steps_of
from hemiola.kernels import compiling_numba

if not fits(torch.nn.LSTM(16, 16)):
    pytest.skip("this processor has no AVX-512 with byte permutations", allow_module_level=True)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def lively(width: int, layers: int = 2) -> torch.nn.LSTM:
    torch.manual_seed(width)
    lstm = torch.nn.LSTM(width, width, layers)
    for parameter in lstm.parameters():
        parameter.data *= 2  # so that what was remembered counts
    return lstm


@torch.inference_mode()
@pytest.mark.parametrize(("width", "rows"), [(16, 1), (48, 2), (80, 3), (32, 7), (512, 1)])
def test_blocks_of_steps_join_to_what_torch_makes_of_all(width: int, rows: int) -> None:
    lstm = lively(width)
    x = torch.randn(41, rows, width)
    ours, state, found = CompiledLstm(lstm), None, []
    for block in x.split((1, 7, 20, 13)):
        y, state = ours(block, state)
        found.append(y)
    exact, after = lstm.double()(x.double())
    assert (torch.cat(found) - exact).abs().max() < 1e-5
    for mine, theirs in zip(state, after):
        assert (mine - theirs).abs().max() < 2e-5


@torch.inference_mode()
@pytest.mark.parametrize("kind", [CompiledLstm, TorchLstm])
def test_a_state_that_was_given_is_left_alone(kind: type[CompiledLstm] | type[TorchLstm]) -> None:
    ours, x = kind(lively(32)), torch.randn(5, 1, 32)
    _, state = ours(x, None)
    kept = [each.clone() for each in state]
    first, second = ours(x, state)[0], ours(x, state)[0]
    assert torch.equal(first, second)
    assert all(map(torch.equal, state, kept))


@torch.inference_mode()
def test_how_many_threads_share_the_work_changes_no_bit(threads: Callable[[int], None]) -> None:
    lstm, x, found = lively(80), torch.randn(23, 2, 80), []
    for count in (1, 2, 5):
        threads(count)
        found.append(CompiledLstm(lstm)(x, None)[0])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_three_bytes_are_the_nearest_number_with_sixteen_digits() -> None:
    rng = np.random.default_rng(0)
    numbers = (rng.normal(size=(2, 96)) * 10.0 ** rng.integers(-20, 20, (2, 96))).astype(np.float32)
    numbers[0, :4] = 0, -0.0, 1, np.float32(1 + 2**-16)  # the last lies in the middle, and goes to the even one
    packed = np.empty((2, 288), np.uint8)
    threes(numbers, packed)
    whole = np.concatenate([np.zeros((2, 96, 1), np.uint8), packed.reshape(2, 96, 3)], axis=-1).view("<f4")[..., 0]
    fraction, exponent = np.frexp(numbers.astype(np.float64))
    assert np.array_equal(whole, np.ldexp(np.rint(fraction * 2**16) / 2**16, exponent))


def test_torch_takes_the_steps_where_kernels_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    large = torch.nn.LSTM(512, 512)
    assert isinstance(steps_of(large), CompiledLstm)
    assert isinstance(steps_of(torch.nn.LSTM(256, 256)), TorchLstm)  # too small to be worth it
    assert isinstance(steps_of(torch.nn.LSTM(520, 520)), TorchLstm)
    assert isinstance(steps_of(torch.nn.LSTM(512, 512).bfloat16()), TorchLstm)
    with monkeypatch.context() as patch:
        patch.setattr(compiling_numba.llvm, "get_host_cpu_features", lambda: {"avx512f": True})
        assert isinstance(steps_of(torch.nn.LSTM(512, 512)), TorchLstm)
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="numba cannot be loaded"):
        patch.setitem(sys.modules, "hemiola.codec.lstm_compiled_torch", None)
        assert isinstance(steps_of(large), TorchLstm)


def test_weights_that_are_not_numbers_are_left_to_torch_which_passes_them_on() -> None:
    lstm = torch.nn.LSTM(512, 512)
    with torch.no_grad():
        lstm.weight_hh_l0[700, 3] = torch.nan
        steps = steps_of(lstm)
        assert isinstance(steps, TorchLstm)
        assert steps(torch.ones(3, 1, 512), None)[0][2].isnan().any()


@torch.inference_mode()
def test_products_in_torch_are_torchs_own_lstm() -> None:
    lstm, x = lively(24, layers=1), torch.randn(9, 2, 24)
    found = lstm_steps(x, torch.zeros(2, 24), torch.zeros(2, 24), lstm.all_weights[0])
    assert (found - lstm(x)[0]).abs().max() < 1e-6
