"""A contest: who takes turns with whom, what counts, and what is made of it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from hemiola.bench import contest as contests
from hemiola.bench.contest import Outcome, contest, ratios


def test_contenders_take_turns_and_the_first_round_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], []

    def takes(name: str, seconds: list[float]) -> None:
        order.append(name)
        clock[0] += seconds.pop(0)

    monkeypatch.setattr(contests.time, "perf_counter", lambda: clock[0])
    slow, quick = [9.0, 4.0, 6.0, 5.0], [7.0, 1.0, 2.0, 3.0]
    done: list[tuple[int, int]] = []
    outcomes = contest(
        {"hemiola": lambda: takes("h", quick), "rival": lambda: takes("r", slow)},
        rounds=3,
        bytes_read={"hemiola": 10},
        progress=lambda *at: done.append(at),
    )
    assert "".join(order) == "hrhrhrhr"
    assert outcomes == {"hemiola": Outcome((1.0, 2.0, 3.0), 10), "rival": Outcome((4.0, 6.0, 5.0), 0)}
    assert outcomes["hemiola"].median == 2.0
    assert done[-1] == (8, 8)


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    outcomes = {
        "hemiola int8": Outcome((1.0, 2.0, 10.0)),
        "hemiola float32": Outcome((4.0, 4.0, 4.0)),
        "transformers float32": Outcome((8.0, 8.0, 20.0)),
    }
    # 8, 4, 2 and 2, 2, 5: a round in which the machine was slow for both does not count more.
    assert ratios(outcomes) == {
        "hemiola int8": {"transformers float32": 4.0},
        "hemiola float32": {"transformers float32": 2.0},
    }


def test_a_last_round_is_for_memory() -> None:
    order: list[str] = []

    def takes(name: str, megabytes: int) -> None:
        order.append(name)
        np.ones(megabytes * 125_000)  # written to, or nobody has to give it

    done: list[tuple[int, int]] = []
    works = {"hemiola": lambda: takes("h", 20), "rival": lambda: takes("r", 60)}
    outcomes = contest(works, rounds=2, memory=True, progress=lambda *at: done.append(at))
    assert "".join(order) == "hrhrhrhr"
    assert done[-1] == (8, 8)
    assert [len(each.seconds) for each in outcomes.values()] == [2, 2]
    if sys.platform == "linux":
        found = [each.peak_bytes or 0 for each in outcomes.values()]
        assert found == pytest.approx([20e6, 60e6], abs=4e6)


def test_memory_has_a_speed() -> None:
    assert 0.1 < contests.copy_gb_per_second() < 10_000
