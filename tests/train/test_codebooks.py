"""Codebooks: averages against a loop in numpy, clusters that are known, and two processes against one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import Encodec, Quantizer
from hemiola.train.codebooks import CodebookTrainer, k_means

WIDTH, SIZE = 4, 8
CONFIG = EncodecConfig(
    target_bandwidths=(0.6,),
    sampling_rate=2000,
    hidden_size=WIDTH,
    num_filters=2,
    upsampling_ratios=(5, 4),
    codebook_size=SIZE,
    num_lstm_layers=1,
)


def trainer(warmup_steps: int = 0, seed: int = 0, **settings: float) -> CodebookTrainer:
    torch.manual_seed(7)
    assert CONFIG.codebooks == 2
    return CodebookTrainer(Quantizer(CONFIG).codebooks, warmup_steps=warmup_steps, seed=seed, **settings)


def latents(step: int, batch: int = 4, frames: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(batch, WIDTH, frames, generator=generator)


def test_codebooks_follow_the_mean_of_what_they_stand_for() -> None:
    codebooks = trainer(decay=0.9, dead_share=0.0)
    tables = [embed.double().numpy() for embed in codebooks.embeds]
    used, sums = np.ones((2, SIZE)), np.zeros((2, SIZE, WIDTH))
    for step in range(3):
        codebooks(latents(step), 2)
        residual = latents(step).double().numpy().transpose(0, 2, 1).reshape(-1, WIDTH)
        for index in range(2):
            table = tables[index]
            hits, totals, left = np.zeros(SIZE), np.zeros((SIZE, WIDTH)), []
            for vector in residual:
                nearest = int(np.argmin([np.sum((vector - entry) ** 2) for entry in table]))
                hits[nearest] += 1
                totals[nearest] += vector
                left.append(vector - table[nearest])
            used[index] = 0.9 * used[index] + 0.1 * hits
            sums[index] = 0.9 * sums[index] + 0.1 * totals
            tables[index] = sums[index] / used[index][:, None]
            residual = np.array(left)
        for embed, table in zip(codebooks.embeds, tables):
            np.testing.assert_allclose(embed, table, rtol=1e-4, atol=1e-5)


def test_only_as_many_codebooks_move_as_are_in_use() -> None:
    codebooks = trainer(decay=0.9)
    before = [embed.clone() for embed in codebooks.embeds]
    codebooks(latents(0), 1)
    assert (codebooks.embeds[0] != before[0]).any()
    assert (codebooks.embeds[1] == before[1]).all()


def test_quantising_is_the_codecs_own_and_eval_moves_nothing() -> None:
    torch.manual_seed(0)
    codec = Encodec(CONFIG)
    codebooks = CodebookTrainer(codec.quantizer.codebooks, warmup_steps=0).eval()
    before = [embed.clone() for embed in codebooks.embeds]
    heard, commitment = codebooks(latents(0), 2)
    expected = codec.dequantize(codec.quantize(latents(0), 2))
    torch.testing.assert_close(heard, expected)
    # The commitment is the mean over codebooks of what each leaves over.
    first = codec.dequantize(codec.quantize(latents(0), 1))
    left = [((latents(0) - each) ** 2).mean() for each in (first, expected)]
    torch.testing.assert_close(commitment, sum(left) / 2)
    assert all((embed == old).all() for embed, old in zip(codebooks.embeds, before))


def test_gradients_pass_straight_through() -> None:
    codebooks = trainer().eval()
    source, weights = latents(0).requires_grad_(), latents(9)
    heard, commitment = codebooks(source, 2)
    (straight,) = torch.autograd.grad((heard * weights).sum(), source, retain_graph=True)
    torch.testing.assert_close(straight, weights, rtol=0, atol=0)
    (pull,) = torch.autograd.grad(commitment, source)
    codebook = codebooks.embeds[0]
    vectors = source.detach().transpose(1, 2)
    nearest = torch.cdist(vectors, codebook[None]).argmin(-1)
    first = vectors - codebook[nearest]
    second = first - codebooks.embeds[1][torch.cdist(first, codebooks.embeds[1][None]).argmin(-1)]
    torch.testing.assert_close(pull.transpose(1, 2), (first + second) / source.numel())


def test_half_precision_around_it_changes_nothing() -> None:
    codebooks = trainer().eval()
    expected = codebooks(latents(0), 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = codebooks(latents(0), 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_module_that_moves_takes_its_codebooks_along() -> None:
    codec = Encodec(CONFIG)
    codebooks = CodebookTrainer(codec.quantizer.codebooks, warmup_steps=0)
    codec._apply(torch.clone)  # as a move to another device does: buffers are other tensors then
    before = codec.quantizer.codebooks[0].embed.clone()
    codebooks(latents(0), 2)
    assert (codec.quantizer.codebooks[0].embed != before).any()


def test_k_means_finds_clusters_that_are_apart() -> None:
    generator = torch.Generator().manual_seed(3)
    centers = torch.tensor([[0.0, 10.0], [10.0, 0.0], [-10.0, -10.0]])
    labels = torch.arange(300) % 3
    points = centers[labels] + 0.1 * torch.randn(300, 2, generator=generator)
    # A start with one point of each: Lloyd's iterations do not leave a local minimum.
    seed = next(s for s in range(50) if len(set(labels[start(300, s)[:3]].tolist())) == 3)
    found = k_means(points, 3, seed=seed)
    order = torch.cdist(centers, found).argmin(1)
    expected = torch.stack([points[labels == each].mean(0) for each in range(3)])
    torch.testing.assert_close(found[order], expected)


def start(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def test_k_means_of_fewer_points_than_clusters_repeats_them() -> None:
    points = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = k_means(points, 5)
    assert {tuple(each) for each in found.tolist()} <= {(1.0, 2.0), (3.0, 4.0)}


def test_latents_pass_until_the_codebooks_start() -> None:
    codebooks = trainer(warmup_steps=3)
    for step in range(2):
        heard, commitment = codebooks(latents(step), 2)
        assert heard.equal(latents(step))
        assert commitment == 0
    heard, commitment = codebooks(latents(2), 2)
    assert not heard.equal(latents(2))
    assert commitment > 0


def test_the_start_is_k_means_of_what_was_heard() -> None:
    codebooks = trainer(warmup_steps=2, seed=5)
    codebooks(latents(0), 2)
    codebooks._advance(latents(1).transpose(1, 2).reshape(-1, WIDTH))
    heard = torch.cat([latents(step).transpose(1, 2).reshape(-1, WIDTH) for step in range(2)])
    expected = k_means(heard, SIZE, seed=5)
    torch.testing.assert_close(codebooks.embeds[0], expected)
    left = heard - expected[torch.cdist(heard, expected).argmin(1)]
    torch.testing.assert_close(codebooks.embeds[1], k_means(left, SIZE, seed=6))


def test_the_reservoir_ends_with_the_newest() -> None:
    codebooks = trainer(warmup_steps=100, reservoir_frames=48)
    for step in range(5):
        codebooks(latents(step), 2)
    rows = {tuple(each) for each in codebooks.reservoir.tolist()}
    newest = torch.cat([latents(step).transpose(1, 2).reshape(-1, WIDTH) for step in (3, 4)])
    assert rows == {tuple(each) for each in newest.tolist()}


def test_silence_still_starts_codebooks() -> None:
    codebooks = trainer(warmup_steps=1, reservoir_frames=64)
    heard, _ = codebooks(torch.zeros(2, WIDTH, 3), 2)
    assert (heard == 0).all()
    for step in range(3):
        heard, _ = codebooks(latents(step), 2)
    assert heard.isfinite().all()


def test_a_dead_code_comes_back_to_life() -> None:
    codebooks = trainer(decay=0.5, dead_share=0.5)
    codebooks.embeds[0][:] = 0.1 * torch.randn(SIZE, WIDTH)
    far = 100.0
    codebooks.embeds[0][3] = far
    for step in range(20):
        codebooks(latents(step, batch=8, frames=20), 2)
    assert (codebooks.embeds[0][3].abs() < 5).all()
    # All codes are in use then: the perplexity is near the size.
    assert codebooks.usage()[0] > 0.8


def test_usage_of_even_and_of_single_use() -> None:
    codebooks = trainer()
    codebooks.used[0] = 3.0
    codebooks.used[1] = torch.eye(SIZE)[2]
    torch.testing.assert_close(codebooks.usage(), torch.tensor([1.0, 1 / SIZE]))


def degenerate(kind: str, step: int) -> Tensor:
    """A global batch of 4; the second rank's half may be of no use."""
    batch = latents(step)
    if kind == "silent":
        batch[2:] = 0
    if kind == "constant":
        batch[2:] = 1
    return batch


def train(kind: str, rank: int, world: int) -> CodebookTrainer:
    codebooks = trainer(warmup_steps=3, decay=0.8, dead_share=0.3, seed=1)
    share = 4 // world
    for step in range(8):
        codebooks(degenerate(kind, step)[rank * share : (rank + 1) * share], 1 + step % 2)
    return codebooks


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    states = {kind: train(kind, rank, 2) for kind in ("usual", "silent", "constant")}
    saved = {kind: (each.embeds, each.state_dict()) for kind, each in states.items()}
    torch.save(saved, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.spawn(run_rank, (str(folder),), nprocs=2)
    return [torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("kind", ["usual", "silent", "constant"])
def test_two_processes_are_one_with_the_joined_batch(ranks: list[dict], kind: str) -> None:
    alone = train(kind, 0, 1)
    for embeds, state in (each[kind] for each in ranks):
        for embed, expected in zip(embeds, alone.embeds):
            torch.testing.assert_close(embed, expected, rtol=1e-5, atol=1e-6)
        for name, expected in alone.state_dict().items():
            torch.testing.assert_close(state[name], expected, rtol=1e-5, atol=1e-6)
