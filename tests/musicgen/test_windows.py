"""Windows over long music: they cover it without a gap, and each knows how much of it is new."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemiola.codec.config import ENCODEC_32KHZ
from hemiola.errors import InputError
from hemiola.musicgen.config import DecoderConfig, MusicgenConfig, T5Config
from hemiola.musicgen.windows import Window, default_stride, window_frames, windows

SMALL = MusicgenConfig(T5Config(), DecoderConfig(), ENCODEC_32KHZ)


def test_a_minute_is_1500_and_900_and_600_new_frames() -> None:
    rounds = list(windows(3000, 1500, 900))
    assert [each.frames - each.prompt for each in rounds] == [1500, 900, 600]
    # With three steps of delay each: the 3009 steps that progress counts.
    assert sum(each.frames - each.prompt + 3 for each in rounds) == 3009


@pytest.mark.parametrize("frames", [1, 149, 1499, 1500])
def test_what_fits_is_one_window_without_a_prompt(frames: int) -> None:
    assert list(windows(frames, 1500)) == [Window(0, frames, 0)]


def test_one_frame_more_is_a_window_with_one_new_frame() -> None:
    assert list(windows(1501, 1500)) == [Window(0, 1500, 0), Window(900, 601, 600)]


@given(frames=st.integers(1, 5000), window=st.integers(1, 400), data=st.data())
def test_new_frames_follow_one_another_to_the_end(frames: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    written = 0
    for each in windows(frames, window, stride):
        assert each.first == written
        assert 0 <= each.prompt < each.frames <= window
        assert each.prompt in (0, window - stride)
        written = each.start + each.frames
    assert written == frames


@pytest.mark.parametrize(("window", "stride"), [(10, 0), (10, 11), (1, 2), (10, -1)])
def test_a_stride_that_cannot_be_is_refused(window: int, stride: int) -> None:
    with pytest.raises(InputError, match="stride"):
        list(windows(30, window, stride))


def test_a_window_is_30_seconds_or_what_positions_hold() -> None:
    assert window_frames(SMALL) == 1500
    assert default_stride(1500) == 900
    short = replace(SMALL, decoder=replace(SMALL.decoder, max_position_embeddings=404))
    assert window_frames(short) == 400
    least = replace(SMALL, decoder=replace(SMALL.decoder, max_position_embeddings=1))
    assert window_frames(least) == default_stride(1) == 1
