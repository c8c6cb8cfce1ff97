"""Products by AMX's tiles: the sums of whole numbers, and to the bit what the other kernels make."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

pytest.importorskip("numba")

from hemiola.kernels import compiling_numba, rows_numba
from hemiola.kernels.compiling_numba import compiled, tiles_granted
from hemiola.kernels.memory import lined
from hemiola.kernels.sixes_numba import GROUP, LINES, OUTPUTS

needs_tiles = pytest.mark.skipif(not tiles_granted(), reason="no AMX")


def drawn(rows: int, depth: int, bundles: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packed bundles, rows as products take them, and the whole numbers [rows, inputs] that the rows stand for."""
    rng = np.random.default_rng(rows)
    packed = lined((bundles, depth, LINES, 64), np.uint8)
    packed[:] = rng.integers(256, size=packed.shape)
    given = lined((rows, 2, depth * (GROUP + 4)), np.uint8)
    halves = rng.integers(-128, 128, size=(2, rows, depth, GROUP))
    for half in range(2):
        given[:, half, : depth * GROUP] = halves[half].reshape(rows, -1).astype(np.int8).view(np.uint8)
        sums = (-32 * halves[half].sum(-1)).astype(np.int32)
        given[:, half, depth * GROUP :] = sums.view(np.uint8).reshape(rows, -1)
    return packed, given.reshape(rows, -1), 256 * halves[0] + halves[1]


def weights(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each weight [bundles, depth, GROUP, OUTPUTS] and scale [bundles, depth, OUTPUTS], bit by bit."""
    lines = packed[:, :, :-1].reshape(*packed.shape[:2], GROUP // 4, 3, 64).astype(int)
    blocks = [
        (lines[..., block // 2, :] >> (4 * (block % 2)) & 15) | (lines[..., 2, :] >> (2 * block) & 3) << 4
        for block in range(4)
    ]
    # [bundles, depth, quad, block, lane * input] -> inputs first
    found = np.stack(blocks, axis=3).reshape(*packed.shape[:2], GROUP // 4, 4, 16, 4)
    found = found.transpose(0, 1, 2, 5, 3, 4).reshape(*packed.shape[:2], GROUP, OUTPUTS) - 32
    return found, packed[:, :, -1].view(np.int8).astype(int)


@needs_tiles
@pytest.mark.parametrize("rows", [1, 3, 4, 13, 16, 17, 24, 35])
@pytest.mark.parametrize("depth", [1, 2, 4, 7])
def test_tiles_make_the_sums_of_whole_numbers_and_what_vectors_make(rows: int, depth: int) -> None:
    packed, given, numbers = drawn(rows, depth, bundles=3)
    units, steps = np.full(3 * OUTPUTS, 0.5, np.float32), np.linspace(1, 2, rows, dtype=np.float32)
    made = []
    for way in (rows_numba.by_tiles, rows_numba.by_vectors):
        out = np.ones((rows, 3 * OUTPUTS), np.float32)
        compiled(way)(packed.ctypes.data, packed[0].nbytes, 1, 3, units, given, steps, out, True)
        made.append(out)
    assert np.array_equal(*made)
    found, scales = weights(packed)
    sums = np.einsum("rgi,bgio,bgo->rbo", numbers, found, scales).reshape(rows, -1)
    expected = 1 + 0.5 * steps[:, None] * sums
    expected[:, :OUTPUTS] = 1  # bundle 0 was somebody else's
    np.testing.assert_allclose(made[0], expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_code_with_tiles_is_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    shelves = set()
    for granted in (True, False):
        monkeypatch.setattr(compiling_numba, "tiles_granted", lambda granted=granted: granted)
        shelves.add(compiling_numba._shelf.__wrapped__())
    assert len(shelves) == 2


@pytest.mark.parametrize("answer", [0, -1])
def test_the_system_is_asked_for_tiles(monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
    class Library:
        def syscall(self, *numbers: int) -> int:
            assert numbers == (158, 0x1023, 18)
            return answer

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(compiling_numba, "supported", lambda *features: True)
    monkeypatch.setattr(compiling_numba.platform, "system", lambda: "Linux")
    monkeypatch.setattr(compiling_numba.platform, "machine", lambda: "x86_64")
    assert tiles_granted.__wrapped__() is (answer == 0)
    monkeypatch.setattr(compiling_numba.platform, "system", lambda: "Darwin")
    assert tiles_granted.__wrapped__() is False
