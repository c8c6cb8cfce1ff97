"""Pieces that begin where others end: the tokens are those of each alone, and nobody waits for anybody."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graph_pieces import JOBS, KINDS, fitting, loaded
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola import MusicGen, Request
from hemiola.errors import InputError, WeightsError
from hemiola.musicgen import queue
from hemiola.musicgen.batch import Job
from hemiola.musicgen.graph_torch import GraphEngine
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.sampling import Sampling
from hemiola.musicgen.session_torch import Engine
from hemiola.musicgen.static_torch import StaticStep

pytestmark = pytest.mark.usefixtures("small_buckets")  # the ring has 80 places


def alone(model: MusicgenModel, job: Job) -> np.ndarray:
    return np.concatenate(list(model.tokens([job])), axis=-1)[0]


def queued(model: MusicgenModel, jobs: list[Job], side_by_side: int) -> tuple[list[int], dict[int, np.ndarray]]:
    """The order in which jobs are through, and the codes of each."""
    found: dict[int, np.ndarray] = {}
    order = model.queue(jobs, lambda number, codes: found.update({number: codes}), side_by_side, counted=id, stop=None)
    return list(order), found


@pytest.mark.parametrize("side_by_side", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_tokens_are_those_of_each_alone(
    usual: dict[str, MusicgenModel], ours: dict[str, MusicgenModel], kind: str, side_by_side: int
) -> None:
    jobs = fitting(kind, JOBS)
    order, found = queued(ours[kind], jobs, side_by_side)
    assert sorted(order) == list(range(len(jobs)))
    for number, job in enumerate(jobs):
        assert np.array_equal(found[number], alone(usual[kind], job)), number


@pytest.mark.parametrize(
    "jobs",
    [
        [replace(each, text=None, negative=None) for each in JOBS],
        [replace(each, sampling=Sampling(guidance=1, top_k=40)) for each in JOBS],
        [replace(each, sampling=Sampling(temperature=0)) for each in JOBS if each.negative is None],
        [replace(JOBS[7], seed=seed) for seed in range(9)],
    ],
    ids=["no text", "no guidance", "greedy", "short"],
)
def test_queues_that_are_all_of_a_kind(
    usual: dict[str, MusicgenModel], ours: dict[str, MusicgenModel], jobs: list[Job]
) -> None:
    _, found = queued(ours["mono"], jobs, 2)
    for number, job in enumerate(jobs):
        assert np.array_equal(found[number], alone(usual["mono"], job))


def test_nobody_waits(ours: dict[str, MusicgenModel], monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    advance = StaticStep._advance

    def counting(self: StaticStep, bucket: int) -> None:
        taken.append(bucket)
        advance(self, bucket)

    monkeypatch.setattr(StaticStep, "_advance", counting)
    order, _ = queued(ours["mono"], JOBS, 3)
    # By hand: whoever is free takes the next one. A step is taken before where a prompt is read.
    free, ends = [0, 0, 0], []
    for number, job in enumerate(JOBS):
        start = heapq.heappop(free)
        first = 0 if job.prompt is None else 1 + job.prompt_frames
        ends.append((start + job.frames + 3 - first, number))
        heapq.heappush(free, ends[-1][0])
    assert len(taken) == max(free)
    ended = {number: end for end, number in ends}
    assert [ended[number] for number in order] == sorted(ended.values())
    # While the ring has not gone round, as many places are looked at as are needed.
    assert taken[:80] == [min(16 * (1 + place // 16), 80) for place in range(80)]
    assert set(taken[80:]) == {80}


def test_nothing_is_asked_of_the_device_in_a_step(
    ours: dict[str, MusicgenModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("this is not to be called")

    advance = StaticStep._advance

    def silent(self: StaticStep, bucket: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("item", "cpu", "numpy", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero"):
                patch.setattr(torch.Tensor, name, refuse)
            advance(self, bucket)

    monkeypatch.setattr(StaticStep, "_advance", silent)
    assert len(queued(ours["mono"], JOBS, 4)[0]) == len(JOBS)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_graph_serves_every_slot_and_queue(
    folders: dict[str, Path], usual: dict[str, MusicgenModel], device: Any, kind: str
) -> None:
    model = loaded(folders[kind], GraphEngine)
    model.engine._capture.works = True
    jobs = fitting(kind, JOBS)
    expected = [alone(usual[kind], job) for job in jobs]
    recorded = []
    for _ in range(2):
        _, found = queued(model, jobs, 3)
        assert all(np.array_equal(found[number], codes) for number, codes in enumerate(expected))
        recorded.append(device.told.count("a graph"))
    assert recorded[0] == recorded[1] > 0


def test_what_is_no_number_is_said(folders: dict[str, Path]) -> None:
    model = loaded(folders["mono"], GraphEngine)
    model.engine.decoder.heads.fill_(torch.nan)
    with pytest.raises(WeightsError, match="not numbers"):
        queued(model, JOBS, 2)
    # What was lent is back.
    assert len(model.engine._spare) == 1


def test_what_is_no_number_does_no_harm_to_the_next_queue(
    ours: dict[str, MusicgenModel], usual: dict[str, MusicgenModel]
) -> None:
    queued(ours["mono"], JOBS[:4], 2)
    (static,) = ours["mono"].engine._spare
    with torch.inference_mode():
        for each in (*static.caches, *static.text_caches, static.guidance):
            each.fill_(torch.nan)
    assert np.array_equal(queued(ours["mono"], JOBS[:4], 2)[1][3], alone(usual["mono"], JOBS[3]))
    assert ours["mono"].engine._spare[0] is static


# What a musician sees of it.

REQUESTS = [
    Request("slow piano", "0.5", seed=1),
    Request("calm", "1.31", seed=2, negative="drums"),
    Request(None, "0.02", seed=3),
    Request("bass line", 1, seed=4, temperature=0),
    Request("bright drums", "0.7", seed=5, guidance=1),
]


@pytest.fixture(params=["graph", "usual"])
def music(request: pytest.FixtureRequest, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> MusicGen:
    monkeypatch.setattr("hemiola.musicgen.windows.TRAINED_SECONDS", 0.4)  # 40 frames, 24 of them new in a later window
    return MusicGen(loaded(folders["mono"], GraphEngine if request.param == "graph" else Engine))


@pytest.mark.parametrize("side_by_side", [1, 2, 4, 9])
def test_music_is_the_same_however_many_are_side_by_side(music: MusicGen, side_by_side: int) -> None:
    expected = music.generate(REQUESTS)
    done: list[tuple[int, int]] = []
    results = music.generate(REQUESTS, side_by_side=side_by_side, progress=lambda *at: done.append(at))
    for mine, theirs in zip(results, expected, strict=True):
        assert mine.request == theirs.request
        assert np.array_equal(mine.codes, theirs.codes)
        assert mine.audio.length == theirs.audio.length
    steps, totals = zip(*done)
    assert list(steps) == sorted(steps) and steps[-1] == totals[0] and len(set(totals)) == 1


def test_a_piece_is_there_as_soon_as_it_is_done(music: MusicGen) -> None:
    done: list[int] = []
    pieces = music.each(REQUESTS, side_by_side=2, progress=lambda taken, total: done.append(taken))
    number, result = next(pieces)
    assert number == 0 and result.audio.length == 400
    assert done[-1] < 300
    assert sorted(number for number, _ in pieces) == [1, 2, 3, 4]


def test_a_stop_keeps_what_is_whole(music: MusicGen) -> None:
    done: list[int] = []
    results = music.generate(
        REQUESTS, side_by_side=2, progress=lambda taken, total: done.append(taken), stop=lambda: sum(done[-1:]) > 260
    )
    assert 1 <= len(results) < len(REQUESTS)
    assert results[0].request.seed == 1


@pytest.mark.parametrize("side_by_side", [0, -1])
def test_at_least_one_is_made_at_a_time(music: MusicGen, side_by_side: int) -> None:
    with pytest.raises(InputError, match=f"side_by_side must be at least 1, not {side_by_side}"):
        music.generate(REQUESTS, side_by_side=side_by_side)


# Any queue, with slots that only count.


class Counting:
    def __init__(self, count: int, stride: int) -> None:
        self.left: dict[int, int] = {}
        self.count, self.stride = count, stride
        self.names: dict[int, int] = {}

    def admit(self, slot: int, number: int, job: Job) -> int:
        assert slot not in self.left and 0 <= slot < self.count
        self.left[slot], self.names[slot] = job.frames - 1, number
        return 1

    def advance(self) -> tuple[int, list[int]]:
        steps = min(self.stride, *self.left.values())
        self.left = {slot: left - steps for slot, left in self.left.items()}
        return steps, [slot for slot, left in self.left.items() if not left]

    def take(self, slot: int) -> np.ndarray:
        assert self.left.pop(slot) == 0
        return np.full((4, 1), self.names[slot])


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(st.lists(st.integers(2, 12), min_size=1, max_size=3), min_size=1, max_size=9),
    count=st.integers(1, 5),
    stride=st.integers(1, 7),
)
def test_every_job_of_any_queue_is_done_once(pieces: list[list[int]], count: int, stride: int) -> None:
    jobs = [Job(None, each[0]) for each in pieces]
    left = [iter(each[1:]) for each in pieces]
    total = 0

    def following(number: int, codes: np.ndarray) -> Job | None:
        assert (codes == number).all()
        frames = next(left[number], None)
        return None if frames is None else Job(None, frames)

    def counted(steps: int) -> None:
        nonlocal total
        total += steps

    order = list(queue.by_slots(jobs, following, Counting(count, stride), count, counted, None))
    assert sorted(order) == list(range(len(pieces)))
    assert total == sum(map(sum, pieces))


@settings(max_examples=100, deadline=None)
@given(frames=st.lists(st.integers(2, 12), min_size=1, max_size=9), given_=st.integers(0, 1), count=st.integers(1, 4))
def test_steps_of_batches_are_counted_for_each_job(frames: list[int], given_: int, count: int) -> None:
    prompts = [None if index % 2 or not given_ else np.zeros((4, 1), int) for index in range(len(frames))]
    jobs = [Job(None, each, prompt=prompt) for each, prompt in zip(frames, prompts)]
    total: list[int] = []

    def write(some: Any, progress: Callable[[int, int], None]) -> Iterator[np.ndarray]:
        steps = max(job.frames for job in some) + 3 - min(job.prompt_frames for job in some)
        for step in range(1, steps + 1):
            progress(step, steps)
        yield np.zeros((len(some), 4, max(job.frames for job in some)))

    order = queue.by_batches(jobs, lambda number, codes: None, write, count, total.append)
    assert list(order) == list(range(len(jobs)))
    assert sum(total) == sum(job.frames + 3 - job.prompt_frames for job in jobs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("kind", list(KINDS))
def test_slots_on_a_gpu_write_what_a_cpu_does(
    folders: dict[str, Path], usual: dict[str, MusicgenModel], kind: str
) -> None:
    jobs = [replace(job, sampling=replace(job.sampling, temperature=0)) for job in fitting(kind, JOBS)]
    model = loaded(folders[kind], GraphEngine, device="cuda")
    for _ in range(2):
        _, found = queued(model, jobs, 3)
        for number, job in enumerate(jobs):
            assert np.array_equal(found[number], alone(usual[kind], job))
    assert all(model.engine._spare[0]._launches.values())
