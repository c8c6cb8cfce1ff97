"""What only CUDA has, spoken to by hand: streams, graphs, pinned buffers, and what is said when they fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hemiola.musicgen import capture_torch
from hemiola.musicgen.capture_torch import Capture, Ferry


def refuse() -> None:
    raise AssertionError("this is not to be called")


@pytest.fixture
def capture() -> Capture:
    made = Capture(torch.device("cpu"))
    made.works = True
    return made


def test_work_is_rehearsed_recorded_and_then_repeated(capture: Capture, device: Any) -> None:
    total, more = torch.zeros(2), torch.ones(2)
    launch = capture(lambda: total.add_(more * 2), lambda: device.told.append(f"rehearsed {device.current}"), "pool")
    assert not total.any()
    for count in (1, 2):
        launch()
        assert total.tolist() == [2 * count, 2 * count]
    more.fill_(5)
    launch()
    assert total.tolist() == [14, 14]
    assert device.told == [
        "a stream",
        "beside waits for usual",
        *["rehearsed beside"] * 2,
        "usual waits for beside",
        "a graph",
    ]
    assert device.current == "usual"
    # Another one on the same stream, or the two would not share their memory.
    capture(lambda: total.add_(more), lambda: None, "pool")
    assert device.told.count("a stream") == 1


def test_what_fails_is_said_once_and_not_tried_again(capture: Capture, device: Any) -> None:
    device.failing = "operation not permitted"
    with pytest.warns(UserWarning, match="cannot be recorded: operation not permitted$"):
        assert capture(refuse, lambda: None, "pool") is None
    assert (device.current, device.told.count("a graph")) == ("usual", 1)
    assert capture(refuse, refuse, "pool") is None
    assert capture.pool() is None


def test_a_rehearsal_that_fails_is_said_too(capture: Capture, device: Any) -> None:
    def rehearsal() -> None:
        raise RuntimeError("out of memory")

    with pytest.warns(UserWarning, match="cannot be recorded: out of memory$"):
        assert capture(refuse, rehearsal, "pool") is None
    assert (device.current, device.told.count("a graph")) == ("usual", 0)


def test_nothing_is_recorded_on_a_cpu() -> None:
    capture = Capture(torch.device("cpu"))
    assert capture.pool() is None
    assert capture(refuse, refuse, None) is None


def test_a_buffer_is_filled_again_when_it_has_been_copied_from() -> None:
    queue: list[Callable[[], None]] = []  # what the device has been told, and has not done yet
    arrived: list[float] = []

    class Event:
        until = 0

        def record(self, stream: str) -> None:
            self.until = len(arrived) + len(queue)

        def synchronize(self) -> None:
            while len(arrived) < self.until:
                queue.pop(0)()

    class Target:
        is_cuda, device = False, "cuda"

        def __getitem__(self, rows: slice) -> Target:
            assert rows == slice(2)
            return self

        def copy_(self, buffer: torch.Tensor, *, non_blocking: bool) -> None:
            assert non_blocking
            queue.append(lambda: arrived.append(float(buffer[0])))

    ferry = Ferry(Target())  # type: ignore[arg-type]
    ferry._berths = [(torch.zeros(2), Event()) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "current_stream", lambda device: "usual")
        for number in range(6):
            ferry(np.full(2, number, np.float32))
            assert len(queue) <= 2
    assert len(arrived) == 4
    while queue:
        queue.pop(0)()
    assert arrived == [0, 1, 2, 3, 4, 5]


def test_a_buffer_is_pinned_and_its_event_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch, "empty", lambda shape, **named: asked.update(named, shape=shape))
    monkeypatch.setattr(torch.cuda, "Event", lambda **named: asked.update(named))
    capture_torch._berth(torch.zeros(3, 2))
    assert asked == {"shape": (3, 2), "dtype": torch.float32, "pin_memory": True, "blocking": True}
