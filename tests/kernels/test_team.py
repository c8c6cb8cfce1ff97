"""Teams of threads: nobody waits for ever, and a fork has its own."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("numba")

from hemiola.kernels import meeting_numba
from hemiola.kernels.team_torch import Team, counts, team


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_nobody_waits_for_a_thread_that_could_not_begin(two_threads: None) -> None:
    group, met, left = Team(2), counts(), threading.Event()

    def task(part: int, parts: int) -> None:
        if part == 0:
            raise KeyboardInterrupt
        meeting_numba.meet(met, parts)
        left.set()

    with pytest.raises(KeyboardInterrupt):
        group.run(task, counts=met)
    assert left.wait(30)
    group.run(lambda part, parts: None)  # and the next task finds them ready


def _meet(answer: multiprocessing.Queue) -> None:
    met = counts()
    team().run(lambda part, parts: meeting_numba.meet(met, parts))
    answer.put(met[0, 0])


def test_a_process_that_was_forked_has_threads_of_its_own(two_threads: None) -> None:
    # Torch's own threads do not outlive a fork either; what needs them is left out here.
    answer = multiprocessing.get_context("fork").Queue()
    _meet(answer)
    child = multiprocessing.get_context("fork").Process(target=_meet, args=(answer,), daemon=True)
    child.start()
    both = min(2, os.cpu_count() or 1)
    assert [answer.get(timeout=60) for _ in range(2)] == [both, both]
    child.join(30)
