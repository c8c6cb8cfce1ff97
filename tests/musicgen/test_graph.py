"""Static steps: the tokens of a session's own, with nothing asked of the device; and the same, recorded."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graph_pieces import JOBS, PROMPT, SIZES, TUNE, fitting, loaded

from hemiola.backend import choose
from hemiola.bench.generate_torch import guided_logits
from hemiola.musicgen import static_torch
from hemiola.musicgen.batch import NOISE_POSITIONS, Batch, Job, Noise
from hemiola.musicgen.graph_torch import GraphEngine, GraphSession
from hemiola.musicgen.model import MusicgenModel, engine_for
from hemiola.musicgen.sampling import Sampling, draws, gumbels
from hemiola.musicgen.session_torch import Engine
from hemiola.musicgen.static_torch import StaticStep

pytestmark = pytest.mark.usefixtures("small_buckets")

BATCHES = [
    JOBS,
    JOBS[:1],
    JOBS[2:3],
    JOBS[6:],
    [JOBS[1], JOBS[5]],
    [JOBS[3], replace(JOBS[3], text=None, frames=50)],
    [replace(JOBS[6], seed=7), replace(JOBS[6], seed=8, prompt=PROMPT[:, :3], negative="minor")],
]


def tokens(model: MusicgenModel, *jobs: Job, block_frames: int | None = None) -> np.ndarray:
    return np.concatenate(list(model.tokens(jobs, block_frames=block_frames)), axis=-1)


@pytest.mark.parametrize("jobs", BATCHES, ids=range(len(BATCHES)))
@pytest.mark.parametrize("kind", ["mono", "stereo", "melody"])
def test_the_tokens_are_those_of_a_session(
    usual: dict[str, MusicgenModel], ours: dict[str, MusicgenModel], kind: str, jobs: list[Job]
) -> None:
    jobs = fitting(kind, jobs)
    expected = tokens(usual[kind], *jobs)
    assert np.array_equal(tokens(ours[kind], *jobs), expected)
    # Once more, in what the first time left behind.
    assert np.array_equal(tokens(ours[kind], *jobs), expected)


def test_short_pieces_one_after_another_have_their_own_noise_and_settings(
    usual: dict[str, MusicgenModel], ours: dict[str, MusicgenModel]
) -> None:
    ways = [
        Sampling(),
        Sampling(top_k=None),
        Sampling(top_k=None, top_p=0.6),
        Sampling(temperature=0),
        Sampling(temperature=1.5),
        Sampling(top_k=3),
        Sampling(top_k=4),
    ]
    for seed, sampling in enumerate(ways):
        for job in (Job("calm", 12, seed=seed, sampling=sampling), Job("calm", 12, seed=seed + 9, sampling=sampling)):
            assert np.array_equal(tokens(ours["mono"], job), tokens(usual["mono"], job))


@pytest.mark.parametrize("block_frames", [1, 5, 32, 40])
def test_blocks_of_any_size_join_to_the_same_tokens(
    usual: dict[str, MusicgenModel], ours: dict[str, MusicgenModel], block_frames: int
) -> None:
    for jobs in (JOBS, JOBS[6:]):
        found = tokens(ours["mono"], *jobs, block_frames=block_frames)
        assert np.array_equal(found, tokens(usual["mono"], *jobs))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_those_of_a_session(folders: dict[str, Path], dtype: str) -> None:
    exact, expected, found = (
        logits_of(loaded(folders["melody"], engine, dtype=of))
        for engine, of in ((Engine, "float32"), (Engine, dtype), (GraphEngine, dtype))
    )
    near = 1e-5 if dtype == "float32" else 1.5 * (expected - exact).norm() / exact.norm()
    assert exact.any(dim=-1).all()
    assert (found - exact).norm() / exact.norm() < near


def logits_of(model: MusicgenModel) -> torch.Tensor:
    """Guided logits of all steps but the first, as pickers are given them, on the way through a piece that is given."""
    codes = np.random.default_rng(3).integers(64, size=(4, 40))
    batch = Batch((Job("calm piano", 41, melody=TUNE),), SIZES.pattern)
    batch.script[:41] = SIZES.pattern.build(codes).T[:41, None]
    session: Any = model.session(batch)
    written = session.step(batch.script[0], 0)
    taker = session._static if isinstance(session, GraphSession) else session
    found = torch.zeros(40, 1, 4, 64, device=written.device)

    def keep(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        # Of a step that is recorded, Python is run no more.
        found.index_copy_(0, taker.place - session.ahead if taker is not session else at, logits[None])
        return logits.argmax(-1)

    taker.picker = keep
    for position in range(1, 40):
        at = torch.tensor([position])
        (written,) = session.steps(written, position, 1)
    return found[1:].cpu()


def test_a_step_may_be_taken_by_itself(usual: dict[str, MusicgenModel], ours: dict[str, MusicgenModel]) -> None:
    expected, found = (guided_logits(each["mono"], "calm piano") for each in (usual, ours))
    assert (found - expected).norm() < 1e-5 * expected.norm()
    # And between static ones: they remember the same things.
    (job,), batch = JOBS[:1], Batch((JOBS[0],), SIZES.pattern)
    expected = tokens(usual["mono"], job)[0]
    session = ours["mono"].session(batch)
    written = [torch.tensor(batch.script[0])]
    while len(written) <= batch.steps:
        position = len(written) - 1
        alone = position // 5 % 2
        written += [session.step(written[-1], position)] if alone else session.steps(written[-1], position, 5)
    assert np.array_equal(batch.pattern.undo(session.fetch(written).transpose(1, 2, 0))[0, :, : job.frames], expected)


ASKING = ("item", "cpu", "numpy", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "to")


def refuse(*arguments: object, **named: object) -> None:
    raise AssertionError("this is not to be called")


@pytest.mark.parametrize("kind", ["mono", "stereo", "melody"])
def test_nothing_is_asked_of_the_device_in_a_step(
    ours: dict[str, MusicgenModel], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def silent(advance: Callable[..., None]) -> Callable[..., None]:
        def in_silence(self: StaticStep, bucket: int) -> None:
            with pytest.MonkeyPatch.context() as patch:
                for name in ASKING:
                    patch.setattr(torch.Tensor, name, refuse)
                advance(self, bucket)
            taken.append(bucket)

        return in_silence

    taken: list[int] = []
    monkeypatch.setattr(StaticStep, "_advance", silent(StaticStep._advance))
    for jobs in (JOBS, JOBS[3:4], JOBS[1:2]):
        tokens(ours[kind], *fitting(kind, jobs))
    assert len(taken) > 80


def test_steps_are_taken_by_the_block_of_noise_and_by_the_bucket(
    ours: dict[str, MusicgenModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_torch, "BUCKET", 48)
    done: list[int] = []
    list(ours["mono"].tokens([Job("calm", 97)], progress=lambda each, total: done.append(each)))
    # Noise ends at positions 32, 64 and 96, and buckets behind places 48 and 96.
    assert done == [31, 48, 63, 95, 96, 100]


def test_noise_comes_as_it_is_worked_out(ours: dict[str, MusicgenModel], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    batch = Batch((replace(JOBS[0], start=9), replace(JOBS[1], frames=50), JOBS[3]), SIZES.pattern)
    session = ours["mono"].session(batch)
    picker = session._static.picker

    def keep(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        seen.append(noise.clone())
        return picker(logits, noise)

    monkeypatch.setattr(session._static, "picker", keep)
    written = [torch.tensor(batch.script[0])]
    while len(written) <= batch.steps:
        position = len(written) - 1
        written += session.steps(written[-1], position, min(7, batch.steps - position))
    assert len(seen) == batch.steps > NOISE_POSITIONS
    for position, noise in enumerate(seen, 1):
        assert torch.equal(noise[0], torch.tensor(gumbels(draws(1, 0, range(position + 9, position + 10), 4, 64))[0]))
        assert torch.equal(noise[1], torch.tensor(gumbels(draws(2, 0, range(position, position + 1), 4, 64))[0]))
        assert not noise[2].any()


@pytest.mark.parametrize("jobs", [JOBS[:1], JOBS])
def test_a_block_of_noise_is_the_noise_of_its_positions(jobs: list[Job]) -> None:
    batch = Batch(tuple(jobs), SIZES.pattern)
    block = Noise(batch).block(40)
    assert block.shape == (NOISE_POSITIONS, len(jobs), 4, 64)
    for position in (32, 40, 63):
        assert np.array_equal(Noise(batch)(position), block[position - 32])


def test_a_step_serves_the_next_batch_of_its_form(ours: dict[str, MusicgenModel]) -> None:
    engine: Any = ours["mono"].engine

    def static_of(*jobs: Job) -> int:
        session = ours["mono"].session(Batch(jobs, SIZES.pattern))
        return id(session._static)

    first = static_of(JOBS[0])
    assert [id(each) for each in engine._spare] == [first]
    assert static_of(replace(JOBS[0], text="calm piano with drums", seed=9, frames=40)) == first
    static_of(JOBS[0], JOBS[1])
    assert engine._spare[0].form.jobs == 2
    # Two at a time have one each.
    one, two = (ours["mono"].session(Batch((each,), SIZES.pattern)) for each in (JOBS[0], JOBS[0]))
    assert one._static is not two._static
    # And nothing but the engine keeps one.
    there = weakref.ref(one._static)
    del one, two
    engine._spare.clear()
    gc.disable()
    try:
        assert there() is None
    finally:
        gc.enable()


def test_pieces_that_are_made_by_turns_are_each_its_own(ours: dict[str, MusicgenModel]) -> None:
    jobs = [JOBS[0], replace(JOBS[0], seed=5), replace(JOBS[0], text="calm", seed=6)]
    expected = [tokens(ours["mono"], job) for job in jobs]
    found: list[list[np.ndarray]] = [[] for _ in jobs]
    streams = [ours["mono"].tokens([job], block_frames=3) for job in jobs]
    for parts in zip(*streams):
        for mine, part in zip(found, parts):
            mine.append(part)
    for mine, whole in zip(found, expected):
        assert np.array_equal(np.concatenate(mine, -1), whole)


def test_what_is_not_a_number_stays_with_its_batch(
    ours: dict[str, MusicgenModel], usual: dict[str, MusicgenModel]
) -> None:
    session = ours["mono"].session(Batch((JOBS[0],), SIZES.pattern))
    with torch.inference_mode():
        for cache in session.caches:
            cache.fill_(torch.nan)
    del session, cache
    assert np.array_equal(tokens(ours["mono"], JOBS[0]), tokens(usual["mono"], JOBS[0]))


def test_the_engine_is_chosen_for_cuda_alone() -> None:
    choice = choose("torch", "cpu")
    assert engine_for(SIZES, choice) is Engine
    assert engine_for(SIZES, replace(choice, device="mps")) is Engine
    assert engine_for(SIZES, replace(choice, device="cuda")) is GraphEngine
    assert engine_for(SIZES, replace(choice, device="cuda:1", dtype="bfloat16")) is GraphEngine


@pytest.mark.parametrize("kind", ["mono", "stereo", "melody"])
def test_a_graph_repeats_the_step_for_every_position_and_batch(
    folders: dict[str, Path], usual: dict[str, MusicgenModel], device: Any, kind: str
) -> None:
    model = loaded(folders[kind], GraphEngine)
    model.engine._capture.works = True
    others = [replace(job, seed=job.seed + 10, sampling=replace(job.sampling, guidance=2.0)) for job in JOBS[:2]]
    for jobs, recorded in ((JOBS[:2], 3), (others, 0), (others[::-1], 0), ([JOBS[3], JOBS[4]], 2)):
        jobs = fitting(kind, jobs)
        ahead = 0 if kind != "melody" else model.session(Batch(tuple(jobs), model.config.decoder.pattern)).ahead
        before = device.told.count("a graph")
        assert np.array_equal(tokens(model, *jobs), tokens(usual[kind], *jobs))
        if not ahead:
            assert device.told.count("a graph") == before + recorded
    assert device.current == "usual"
    assert device.told[:4] == ["a stream", "beside waits for usual", "usual waits for beside", "a graph"]
    assert device.told.count("a stream") == 1


def test_recording_leaves_all_as_it_was(folders: dict[str, Path], device: Any) -> None:
    model = loaded(folders["mono"], GraphEngine)
    model.engine._capture.works = True
    session: Any = model.session(Batch((JOBS[0],), SIZES.pattern))
    static = session._static
    session.steps(torch.full((1, 4), 64), 0, 5)
    names = ("place", "drawn_at", "written", "script", "begins", "allowed", "drawn", "repeats", "guidance")

    def state() -> list[torch.Tensor]:
        # Where the step that comes next writes, a rehearsal may have written the same.
        kept = [cache[..., :5, :] for cache in static.caches] + [static.written[:6]]
        return [each.clone() for each in kept + [getattr(static, name) for name in names if name != "written"]]

    with torch.inference_mode():
        before = state()
        static._launch(32)
        assert all(torch.equal(old, new) for old, new in zip(before, state()))
    assert static.place.tolist() == [5]
    (expected,) = session.steps(static.written[5], 5, 1)
    assert torch.equal(expected, session.step(static.written[5], 5))


def test_a_device_that_cannot_record_is_said_once(
    folders: dict[str, Path], usual: dict[str, MusicgenModel], device: Any
) -> None:
    model = loaded(folders["mono"], GraphEngine)
    model.engine._capture.works, device.failing = True, "operation not permitted"
    with pytest.warns(UserWarning, match="cannot be recorded: operation not permitted$") as said:
        assert np.array_equal(tokens(model, JOBS[0]), tokens(usual["mono"], JOBS[0]))
    assert len(said) == 1
    assert (device.current, device.told.count("a graph")) == ("usual", 1)
    assert np.array_equal(tokens(model, *JOBS), tokens(usual["mono"], *JOBS))


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")


@needs_cuda
@pytest.mark.parametrize("kind", ["mono", "stereo", "melody"])
def test_graphs_on_a_gpu_write_what_a_cpu_does(
    folders: dict[str, Path], usual: dict[str, MusicgenModel], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(static_torch, "BUCKET", 32)
    model = loaded(folders[kind], GraphEngine, device="cuda")
    greedy = [replace(job, sampling=replace(job.sampling, temperature=0)) for job in JOBS]
    run = StaticStep.run

    def unasked(self: StaticStep, *arguments: Any) -> list[torch.Tensor]:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return run(self, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    for jobs in ([greedy[0]], greedy, JOBS[:2]):
        jobs = fitting(kind, jobs)
        expected = tokens(usual[kind], *jobs)
        assert np.array_equal(tokens(model, *jobs), expected)
        # All is recorded by now: no step asks for anything any more.
        with monkeypatch.context() as patch:
            patch.setattr(StaticStep, "run", unasked)
            assert np.array_equal(tokens(model, *jobs), expected)
        assert all(model.engine._spare[0]._launches.values())


@needs_cuda
def test_bfloat16_on_a_gpu_is_near(folders: dict[str, Path], usual: dict[str, MusicgenModel]) -> None:
    exact, rounded, found = (
        logits_of(loaded(folders["melody"], engine, device, dtype))
        for engine, device, dtype in (
            (Engine, "cpu", "float32"),
            (Engine, "cpu", "bfloat16"),
            (GraphEngine, "cuda", "bfloat16"),
        )
    )
    assert (found - exact).norm() < 2 * (rounded - exact).norm()
