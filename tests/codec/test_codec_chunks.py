from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import EncodecModel

from hemiola.codec.chunks import overlap_add, windows

CHUNK, STRIDE, HOP = 48, 44, 8  # small, but like 48000, 47520 and 320: a stride is no whole number of frames


def padded(window: slice) -> int:
    """How long a window is once it has been through the codec: whole frames."""
    return -(-(window.stop - window.start) // HOP) * HOP


@pytest.mark.parametrize(
    ("length", "lengths"),
    [(1, [1]), (47520, [47520]), (47521, [47521, 1]), (48000, [48000, 480]), (96000, [48000, 48000, 960])],
)
def test_windows_are_those_of_meta(length, lengths):
    found = windows(length, 48000, 47520)
    assert [window.stop - window.start for window in found] == lengths
    assert [window.start for window in found] == [47520 * index for index in range(len(found))]


def test_without_chunks_the_whole_is_one_window():
    assert windows(12345, None, None) == [slice(0, 12345)]


@given(length=st.integers(1, 400))
def test_joining_what_was_cut_gives_it_back(length):
    # The content differs from window to window only where nothing overlaps, so any weights that sum to one will do;
    # lengths such as 52 are those where the last chunk but one ends after the last.
    audio = np.random.default_rng(length).standard_normal((2, 3, length + CHUNK)).astype(np.float32)
    pieces = [audio[..., window.start : window.start + padded(window)] for window in windows(length, CHUNK, STRIDE)]
    np.testing.assert_allclose(overlap_add(pieces, STRIDE)[..., :length], audio[..., :length], rtol=2e-6, atol=1e-6)


@given(length=st.integers(1, 400))
def test_chunks_that_disagree_are_mixed_as_transformers_mixes_them(length):
    cut = windows(length, CHUNK, STRIDE)
    lengths = [padded(window) for window in cut]
    generator = np.random.default_rng(length)
    pieces = [generator.standard_normal((2, 1, each)).astype(np.float32) for each in lengths]
    if len(pieces) > 1 and lengths[-2] > STRIDE + lengths[-1]:
        return  # transformers and Meta's encodec both raise here: the last chunk but one ends after the last
    theirs = EncodecModel._linear_overlap_add([torch.from_numpy(piece) for piece in pieces], STRIDE)
    np.testing.assert_allclose(overlap_add(pieces, STRIDE), theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_an_overlap_is_a_linear_fade():
    joined = overlap_add([np.zeros((1, 8), np.float32), np.ones((1, 8), np.float32)], 4)
    # Triangles of eight: 1 2 3 4 4 3 2 1 ninths; the second's share where both lie is w2 / (w1 + w2).
    np.testing.assert_allclose(joined[0], [0, 0, 0, 0, 1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1, 1, 1], rtol=1e-6)
