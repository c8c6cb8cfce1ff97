"""The delay pattern, against its definition place by place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola.musicgen.delay import DelayPattern

patterns = st.builds(
    DelayPattern,
    st.sampled_from([(0, 1, 2, 3), (0, 0, 1, 1, 2, 2, 3, 3), (0,), (2, 0, 5)])
    | st.lists(st.integers(0, 6), min_size=1, max_size=9).map(tuple),
    st.just(99),
)


def codes_of(pattern: DelayPattern, frames: int) -> np.ndarray:
    return np.arange(pattern.codebooks * frames, dtype=np.int32).reshape(pattern.codebooks, frames)


@settings(deadline=None)
@given(patterns, st.integers(1, 40))
def test_codebook_k_holds_frame_s_minus_1_minus_its_delay(pattern: DelayPattern, frames: int) -> None:
    codes = codes_of(pattern, frames)
    built = pattern.build(codes)
    assert built.shape == (pattern.codebooks, frames + max(pattern.delays) + 1)
    for k in range(pattern.codebooks):
        for s in range(built.shape[1]):
            frame = s - 1 - pattern.delays[k]
            inside = s >= 1 and 0 <= frame < frames
            assert built[k, s] == (codes[k, frame] if inside else 99)
            assert pattern.mask(frames)[k, s] == inside


@settings(deadline=None)
@given(patterns, st.integers(0, 40))
def test_undo_gives_the_codes_back(pattern: DelayPattern, frames: int) -> None:
    codes = np.stack([codes_of(pattern, frames), codes_of(pattern, frames) + 7])
    assert np.array_equal(pattern.undo(pattern.build(codes), frames), codes)


@settings(deadline=None)
@given(patterns, st.integers(1, 30), st.integers(0, 40))
def test_a_first_part_undoes_to_the_first_frames(pattern: DelayPattern, frames: int, positions: int) -> None:
    codes = codes_of(pattern, frames)
    found = pattern.undo(pattern.build(codes)[:, :positions])
    complete = max(0, min(positions, pattern.steps(frames) + 1) - 1 - max(pattern.delays))
    assert np.array_equal(found, codes[:, :complete])


@pytest.mark.parametrize("delays", [(0, 1, 2, 3), (0, 0, 1, 1, 2, 2, 3, 3)])
def test_frames_take_three_steps_more(delays: tuple[int, ...]) -> None:
    assert DelayPattern(delays, 2048).steps(150) == 153
    assert DelayPattern(delays, 2048).steps(0) == 0


def test_asking_for_more_frames_than_are_complete_is_an_error() -> None:
    pattern = DelayPattern((0, 1), 9)
    with pytest.raises(ValueError, match="complete 3 frames, not 4"):
        pattern.undo(np.zeros((2, 5), dtype=int), 4)
    with pytest.raises(ValueError, match="delays"):
        DelayPattern((), 9)
