"""Compiled kernels: products by hand, steps beside torch's own, teams of threads, and machines that have none of it."""

from __future__ import annotations

import importlib.util
import math
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hemiola.backend import choose
from hemiola.bench.generate_torch import guided_logits
from hemiola.errors import WeightsError
from hemiola.musicgen import model as musicgen_model
from hemiola.musicgen.batch import Batch, Job
from hemiola.musicgen.config import DecoderConfig, MelodyConfig
from hemiola.musicgen.decoder_torch import Decoder
from hemiola.musicgen.graph_torch import GraphEngine
from hemiola.musicgen.model import MusicgenModel, engine_for
from hemiola.musicgen.sampling import Sampling, gumbels
from hemiola.musicgen.sampling_torch import Picker
from hemiola.musicgen.session_torch import Engine

# Where it cannot be installed, or the processor has no such instructions, torch takes the steps.
pytest.importorskip("numba")

from numba import njit

from hemiola.kernels import bytes_numba, compiling_numba, rounding_numba, sixes_numba, tile_numba
from hemiola.kernels.lending_numba import lent
from hemiola.kernels.memory import lined
from hemiola.kernels.team_torch import Team
from hemiola.musicgen import attention_numba, compiled_torch, memory_numba, packed_torch, products_numba, reading_torch
from hemiola.musicgen.choosing_numba import bounds, pick
from hemiola.musicgen.compiled_torch import CompiledEngine
from hemiola.musicgen.fused_torch import FusedDecoder
from hemiola.musicgen.packed_torch import Kernels
from hemiola.musicgen.products_numba import Sixes

HELD = ("float32", "bfloat16", "int8")
if not (sixes_numba.supported() and tile_numba.supported(tile_numba.WHOLES)):
    pytest.skip("this processor has no AVX-512", allow_module_level=True)

SIZES = DecoderConfig(64, 64, 3, 4, 128, initializer_factor=0.3)
WIDE = replace(SIZES, hidden_size=128)  # where texts of up to 16 tokens are folded
MELODY = MelodyConfig(chroma_length=7)
PROMPT = np.random.default_rng(2).integers(64, size=(4, 6))
JOBS = [
    Job("slow piano with rain", 41, seed=1),
    Job("calm", 13, seed=2, sampling=Sampling(top_k=5)),
    Job(None, 30, seed=3),
    Job("bright drums", 17, seed=4, sampling=Sampling(guidance=1, temperature=0)),
    Job("calm", 26, seed=2, variation=1, negative="drums bass"),
    Job("slow bass", 19, seed=6, prompt=PROMPT),
]


@pytest.fixture(scope="module")
def folders(checkpoint_of: Callable[[DecoderConfig], Path]) -> dict[str, Path]:
    kinds = {
        "mono": SIZES,
        "wide": WIDE,
        "stereo": replace(SIZES, num_codebooks=8, audio_channels=2),
        "melody": replace(SIZES, melody=MELODY),
    }
    return {name: checkpoint_of(config) for name, config in kinds.items()}


def loaded(folder: Path | str, dtype: str, compiled: bool) -> MusicgenModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(musicgen_model, "COMPILED_FROM", 0 if compiled else math.inf)
        model = MusicgenModel.from_pretrained(folder, backend="torch", device="cpu", dtype=dtype)
    assert isinstance(model._engine, CompiledEngine) == compiled
    return model


def tokens(model: MusicgenModel, *jobs: Job) -> list[np.ndarray]:
    (codes,) = model.tokens(jobs)
    return [rows[:, : job.frames] for job, rows in zip(jobs, codes)]


@pytest.fixture
def threads() -> Callable[[int], None]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def product(held: str, weight: np.ndarray, hidden: np.ndarray, total: np.ndarray | None = None) -> np.ndarray:
    """Hidden times a weight [out, in] that is the second of three layers."""

    class Layer:
        def __init__(self, weight: np.ndarray) -> None:
            self.matrix = torch.tensor(weight).t()

    kernels = object.__new__(Kernels)
    kernels.kind = packed_torch._KINDS[held]
    matrices = kernels._pack([Layer(weight * scale) for scale in (2, 1, 3)], "matrix")
    packed = packed_torch.PackedMatrix(matrices, 1, len(weight))
    given = torch.tensor(hidden)
    return (packed.times(given) if total is None else packed.plus_times(torch.tensor(total), given)).numpy()


def rounded(weight: np.ndarray) -> np.ndarray:
    """What six bits a weight keep of it, [out, in]."""
    codes, scales = np.empty(weight.shape, np.uint8), np.empty((len(weight), weight.shape[1] // 32), np.int8)
    units = np.empty(len(weight), np.float32)
    rounding_numba.rounded(0, 1, weight, codes, scales, units)
    return (codes.astype(np.float64) - 32) * np.repeat(scales, 32, axis=1) * units[:, None]


@settings(deadline=None, max_examples=40)
@given(
    held=st.sampled_from(HELD),
    rows=st.integers(1, 15),
    blocks=st.integers(1, 11),
    groups=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    adding=st.booleans(),
)
def test_a_product_is_what_a_sum_by_hand_says(
    held: str, rows: int, blocks: int, groups: int, seed: int, adding: bool
) -> None:
    rng = np.random.default_rng(seed)
    outputs, inputs = (64 * blocks, 32 * groups) if held == "int8" else (16 * blocks, 16 * groups)
    weight = rng.normal(size=(outputs, inputs)).astype(np.float32)
    hidden = (rng.normal(size=(rows, inputs)) * 10.0 ** rng.integers(-3, 3, (rows, 1))).astype(np.float32)
    total = rng.normal(size=(rows, outputs)).astype(np.float32) if adding else None
    exact_weight, exact_hidden = weight.astype(np.float64), hidden.astype(np.float64)
    if held == "bfloat16":
        exact_weight = torch.tensor(weight).bfloat16().double().numpy()
    if held == "int8":
        exact_weight = rounded(weight)
        step = np.abs(exact_hidden).max(1, keepdims=True) / (127 * 256 + 127)
        exact_hidden = np.rint(exact_hidden / step) * step
    expected = exact_hidden @ exact_weight.T
    # A half in float32 may be rounded the other way than in float64: one step of one input.
    largest = np.abs(hidden).max(1, keepdims=True) / 2**15 * np.abs(weight).max(1) if held == "int8" else 0
    near = 1e-5 * np.abs(exact_hidden) @ np.abs(exact_weight).T + 2 * largest + (0 if total is None else 1e-6)
    found = product(held, weight, hidden, total).astype(np.float64) - (0 if total is None else total)
    assert np.all(np.abs(found - expected) <= near)


def test_bytes_of_nothing_are_nothing() -> None:
    weight = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    assert not product("int8", weight, np.zeros((2, 32), np.float32)).any()
    assert not product("int8", 0 * weight, np.ones((2, 32), np.float32)).any()
    # As small as this a row is nothing, and still a number.
    assert np.abs(product("int8", weight, np.full((2, 32), 1e-38, np.float32))).max() < 1e-30


@njit
def product_of_bytes(like: object, packed: np.ndarray, units: np.ndarray, hidden: np.ndarray, out: np.ndarray) -> None:
    given, steps = products_numba.room(like, len(hidden), hidden.shape[1]), np.empty(len(hidden), np.float32)
    products_numba.give_rows(like, hidden, given, steps)
    bytes_numba.multiply_bytes(
        packed.ctypes.data,
        len(packed) // len(units) * 16,
        len(packed) // len(units) // 4,
        units.ctypes.data,
        len(hidden),
        given.ctypes.data,
        given.shape[1] // 2,
        steps.ctypes.data,
        0,
        len(units) // 16,
        out.ctypes.data,
        out.strides[0],
        True,
    )


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 5), blocks=st.integers(1, 11), quads=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_a_product_with_bytes_is_what_a_sum_by_hand_says(rows: int, blocks: int, quads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs, inputs = 16 * blocks, 4 * quads
    weight, hidden = (rng.normal(size=(count, inputs)).astype(np.float32) for count in (outputs, rows))
    packed, units = lined((1, outputs * inputs), np.uint8), np.empty((1, outputs), np.float32)
    rounding_numba.bytes_laid_out(np.ascontiguousarray(weight.T), packed[0], units[0])
    held = unfolded(packed[0], units[0])
    assert np.all(np.abs(held - weight) <= 0.501 / 127 * np.abs(weight).max(1, keepdims=True))
    out = np.ones((rows, outputs), np.float32)
    padded = np.pad(hidden, ((0, 0), (0, -inputs % 32)))
    product_of_bytes(Sixes(packed, units), packed[0], units[0], padded, out)
    step = np.abs(hidden).max(1, keepdims=True) / (127 * 256 + 127)
    near = 1e-5 * np.abs(hidden) @ np.abs(held).T + step * np.abs(held).sum(1) / 2 + 1e-6
    assert np.all(np.abs(out - 1 - hidden.astype(float) @ held.T) <= near)


@njit
def attended(memory: object, queries: np.ndarray, stop: int, n: int, out: np.ndarray) -> None:
    desk = attention_numba.desk(stop + 16, n)
    for head in range(len(out) // n):
        attention_numba.attend(queries, memory, 1, 0, head, stop, out, desk)


@settings(deadline=None, max_examples=40)
@given(
    held=st.sampled_from(HELD),
    n=st.sampled_from([16, 32, 48, 64]),
    start=st.integers(0, 40),
    length=st.integers(1, 150),
    seed=st.integers(0, 2**32 - 1),
)
def test_attention_is_what_a_sum_by_hand_says(held: str, n: int, start: int, length: int, seed: int) -> None:
    rng, heads, stop = np.random.default_rng(seed), 2, start + length
    kernels = object.__new__(Kernels)
    kernels.kind = packed_torch._KINDS[held]
    kernels.config = replace(SIZES, hidden_size=heads * n, num_attention_heads=heads)
    memory = kernels.memory([start], [0], stop + 3)
    keys, values = rng.normal(size=(2, 1, heads, stop, n)).astype(np.float32) * 10.0 ** rng.integers(-2, 3)
    for part in range(2):
        memory_numba.remember(part, 2, memory, 1, keys, values)
    query, out = rng.normal(size=(heads, n)).astype(np.float32), np.empty(heads * n, np.float32)
    attended(memory, query.reshape(-1), stop, n, out)
    scores = np.einsum("hn,hpn->hp", query.astype(float), keys[0, :, start:]) / math.sqrt(n)
    near = {"float32": 1e-5, "bfloat16": 2**-9, "int8": 0.5 / 127}[held]
    # What is rounded of keys moves scores, and so the shares, by a part of themselves.
    moved = np.exp(2 * near * np.abs(query).sum(1) * np.abs(keys).max() / math.sqrt(n)) - 1 + 1e-5
    shares = scipy.special.softmax(scores, axis=1)
    expected = np.einsum("hp,hpn->hn", shares, values[0, :, start:])
    off = np.abs(out.reshape(heads, n) - expected).max(1) / np.abs(values).max()
    assert np.all(off <= 2 * moved + 2 * near)


@njit
def sums_of_slices(holder: tuple[np.ndarray, tuple[np.ndarray, None]]) -> float:
    first, (second, _) = lent(holder)
    total = 0.0
    for row in range(len(first)):
        total += first[row].sum() + second[row, 1:].sum()
    return total


@njit
def handed_back(array: np.ndarray, lending: bool) -> np.ndarray:
    return lent(array) if lending else array


def test_lent_arrays_are_the_same_and_stay_whose_they_are() -> None:
    first, second = np.arange(12.0).reshape(3, 4), np.arange(6.0).reshape(3, 2)
    owned = [sys.getrefcount(each) for each in (first, second)]
    for _ in range(3):
        assert sums_of_slices((first, (second, None))) == 66 + 9
    assert [sys.getrefcount(each) for each in (first, second)] == owned
    # Numba hands back an array that it was given; of what is lent it knows neither whose it is nor who counts.
    assert handed_back(first, lending=False) is first
    found = handed_back(first, lending=True)
    assert found is not first
    assert found.base is None
    assert np.shares_memory(found, first)


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize(
    "name",
    [
        "layers.1.fc1.weight",
        "layers.2.self_attn_layer_norm.weight",
        "lm_heads.0.weight",
        "layers.1.encoder_attn.q_proj.weight",
        "layers.0.encoder_attn.v_proj.weight",
        "enc_to_dec_proj.weight",
    ],
)
def test_weights_that_are_not_numbers_are_said(folders: dict[str, Path], tmp_path: Path, held: str, name: str) -> None:
    folder = shutil.copytree(folders["wide"], tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    (full,) = (each for each in tensors if each.endswith(name))
    save_file(tensors | {full: torch.full_like(tensors[full], torch.nan)}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="logits that are not numbers"):
        tokens(loaded(folder, held, True), JOBS[0])


@pytest.mark.parametrize("kind", ["mono", "wide", "stereo", "melody"])
def test_the_tokens_are_those_that_torch_writes(folders: dict[str, Path], kind: str) -> None:
    jobs = [replace(job, prompt=None) if kind == "stereo" else job for job in JOBS]
    ours, torchs = (loaded(folders[kind], "float32", compiled) for compiled in (True, False))
    for found, expected in zip(tokens(ours, *jobs), tokens(torchs, *jobs)):
        assert np.array_equal(found, expected)
    # Alone, with a tune of its own, and from a first step that is one place long.
    tune = np.eye(12, dtype=np.float32)[np.arange(7) % 12] if kind == "melody" else None
    job = Job("calm piano", 20, seed=5, melody=tune)
    assert np.array_equal(tokens(ours, job)[0], tokens(torchs, job)[0])


@pytest.mark.parametrize("kind", ["mono", "wide", "melody"])
@pytest.mark.parametrize("held", HELD)
def test_logits_are_as_near_to_float32_as_those_of_torch(folders: dict[str, Path], kind: str, held: str) -> None:
    whole = loaded(folders[kind], "float32", False)
    if held == "int8":
        # Beside the same weights in float32 nothing is left but keys and values in bfloat16, and inputs in 16 bits.
        round_weights(whole._engine.decoder)
    exact = guided_logits(whole, "calm piano")
    ours, torchs = (
        (guided_logits(loaded(folders[kind], dtype, compiled), "calm piano") - exact).norm() / exact.norm()
        for dtype, compiled in ((held, True), ("bfloat16", False))
    )
    # Weights are rounded alike; keys and values are in bfloat16 here, and all in torch's bfloat16.
    assert ours < 1e-5 if held == "float32" else ours < 1.3 * torchs


def test_a_short_text_is_folded_and_read_no_less_exactly(folders: dict[str, Path]) -> None:
    exact = guided_logits(loaded(folders["wide"], "float32", False), "slow piano with rain")
    model = loaded(folders["wide"], "int8", True)
    folded = guided_logits(model, "slow piano with rain")
    model._engine.kernels.turned = None  # without which nothing is folded
    plain = guided_logits(model, "slow piano with rain")
    assert not torch.equal(folded, plain)
    assert (folded - exact).norm() < 1.1 * (plain - exact).norm()


def test_a_folded_matrix_is_a_query_and_keys_in_one(folders: dict[str, Path]) -> None:
    whole, model = loaded(folders["wide"], "float32", False), loaded(folders["wide"], "int8", True)
    jobs = Job("slow piano with rain", 9), Job("slow piano " * 9, 9), Job("calm", 9), Job("calm", 9)
    session = model.session(Batch(jobs, WIDE.pattern))
    text, heads, n = session._steps.text, WIDE.num_attention_heads, WIDE.head_dim
    assert text.runs[:3].tolist() == [[0, 1, 8, 0, 0], [1, 2, 0, 8, 1], [2, 4, 4, 8, 1]]
    for layer, (row, _, places, before, number) in [(0, text.runs[0]), (2, text.runs[0]), (1, text.runs[2])]:
        size, width = heads * places, WIDE.hidden_size
        reader = whole._engine.decoder.layers[layer].reader
        length = text.memory.stop[row]
        keys, values = session.text_caches[layer][:, row, :, :length].double().numpy()
        query, out = (
            rounded(each.contiguous().numpy()).reshape(shape)
            for each, shape in ((reader.query, (-1, heads, n)), (reader.out.t(), (-1, heads, n)))
        )
        asking, giving = (
            each.packed[layer, before * heads * width :][: size * width] for each in (text.asking, text.giving)
        )
        asked = unfolded(asking, text.asking.units[layer, before * heads :][:size])
        given = unfolded(giving, text.giving.units[layer, number * width :][:width])
        found = asked.reshape(heads, places, -1), given.T.reshape(heads, places, -1)
        expected = np.einsum("htn,dhn->htd", keys, query), np.einsum("htn,dhn->htd", values, out)
        for ours, theirs in zip(found, expected):
            assert np.abs(ours[:, :length] - theirs).max() < 0.01 * np.abs(theirs).max()
            assert not ours[:, length:].any()


def unfolded(packed: np.ndarray, units: np.ndarray) -> np.ndarray:
    """A matrix in bytes, uint8 [outputs * inputs], as [outputs, inputs]."""
    codes = packed.reshape(len(units) // 16, -1, 16, 4).swapaxes(1, 2).reshape(len(units), -1)
    return (codes.astype(np.float64) - 128) * units[:, None]


def round_weights(decoder: FusedDecoder) -> None:
    def of(holder: object, *names: str) -> dict[str, torch.Tensor]:
        matrices = {name: getattr(holder, name).t().contiguous().numpy() for name in names}
        return {name: torch.tensor(rounded(each), dtype=torch.float32).t() for name, each in matrices.items()}

    for index, layer in enumerate(decoder.layers):
        reader = layer.reader
        reader = reader and replace(reader, **of(reader, "query", "key_value", "out"))
        decoder.layers[index] = replace(layer, reader=reader, **of(layer, "self_qkv", "self_out", "fc1", "fc2"))
    decoder.heads = of(decoder, "heads")["heads"]


@pytest.mark.parametrize("kind", ["mono", "wide"])
@pytest.mark.parametrize("held", HELD)
def test_alone_and_in_a_batch_the_tokens_are_the_same(folders: dict[str, Path], kind: str, held: str) -> None:
    # A prompt is read at once when it is alone, and step by step beside others: in bytes that may round another way.
    jobs = JOBS[:-1] if held == "int8" else JOBS
    model = loaded(folders[kind], held, True)
    # One text is too long to be folded, and two rows beside each other have the same.
    jobs = [*jobs, replace(jobs[1], seed=9), replace(jobs[0], text="slow piano " * 9)]
    for job, found in zip(jobs, tokens(model, *jobs)):
        assert np.array_equal(found, tokens(model, job)[0])


@pytest.mark.parametrize("held", HELD)
def test_how_many_threads_share_the_work_changes_no_bit(
    folders: dict[str, Path], held: str, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Team(7)
    for module in (compiled_torch, packed_torch, reading_torch):
        monkeypatch.setattr(module, "team", lambda: group)
    model = loaded(folders["wide"], held, True)
    found = []
    for count in (1, 2, 3, 7):
        threads(count)
        found.append(guided_logits(model, "slow rain"))
    assert all(torch.equal(found[0], each) for each in found[1:])


@pytest.mark.parametrize(("held", "nats", "same"), [("int8", 0.01, 0.85), ("bfloat16", 0.001, 0.97)])
def test_the_bundled_model_is_hardly_changed(held: str, nats: float, same: float) -> None:
    whole, small = loaded("sketch", "float32", False), loaded("sketch", held, True)
    prompt = "gentle guitar in A minor, 100 bpm"
    (codes,) = tokens(whole, Job(prompt, 150, seed=3))
    exact, rounded = (guided_logits(each, prompt, codes).log_softmax(-1) for each in (whole, small))
    assert (exact.exp() * (exact - rounded)).sum(-1).mean() < nats
    assert (exact.argmax(-1) == rounded.argmax(-1)).float().mean() > same


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    top_k=st.lists(st.sampled_from([None, 1, 2, 5, 63, 64, 1000]), min_size=1, max_size=4),
    temperature=st.sampled_from([0, 0.3, 1, 2.5]),
    levels=st.sampled_from([3, 1000]),
)
def test_tokens_are_picked_as_torch_picks_them(
    seed: int, top_k: list[int | None], temperature: float, levels: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = len(top_k), 3, 64
    logits = torch.tensor(rng.integers(levels, size=shape) / 4, dtype=torch.float32)  # many are alike
    drawn = rng.integers(2**32, size=shape, dtype=np.uint32)
    logits[0, 1, 5] = torch.nan
    given = [Sampling(top_k=each, temperature=temperature) for each in top_k[:-1]] + [Sampling(top_k=top_k[-1])]
    expected = Picker(given, 64, torch.device("cpu"))(logits, torch.tensor(gumbels(drawn)))
    for job, codebook in np.ndindex(*shape[:2]):
        row = logits[job, codebook].numpy()
        kept = min(given[job].top_k or 64, 64)
        found = pick(row, drawn[job, codebook], bounds(), kept, np.float32(given[job].temperature))
        assert found == expected[job, codebook]
    assert expected[0, 1] == 64


@pytest.mark.parametrize(("held", "each"), [("float32", 4), ("bfloat16", 2), ("int8", 6.25 / 8)])
def test_what_a_step_reads_is_what_it_is_said_to_read(folders: dict[str, Path], held: str, each: float) -> None:
    model, width = loaded(folders["wide"], held, True), WIDE.hidden_size
    own = 4 * width**2 + 2 * width * WIDE.ffn_dim
    text = 2 * width**2
    heads = WIDE.num_codebooks * WIDE.vocab_size * width

    def read(*prompts: str | None) -> float:
        jobs = tuple(Job(prompt, 9) for prompt in prompts)
        return model.session(Batch(jobs, WIDE.pattern)).bytes_read

    assert read(None) == each * (3 * own + heads)
    long = each * (3 * (own + text) + heads)
    assert read("slow piano " * 9) == long
    folded = 3 * 2 * 4 * 4 * width  # of a text of up to four tokens
    assert read("slow piano") == (long - each * 3 * text + folded if held == "int8" else long)
    assert read("slow piano", "calm " * 17, "slow calm piano rain") == (long + 3 * folded if held == "int8" else long)


def test_a_block_comes_as_soon_as_its_steps_are_taken(folders: dict[str, Path]) -> None:
    model, job = loaded(folders["mono"], "float32", True), Job("calm", 40, seed=4)
    taken: list[int] = []
    blocks = model.tokens([job], block_frames=4, progress=lambda done, total: taken.append(done))
    found = [next(blocks)]
    assert found[0].shape[2] == 4
    assert taken[-1] == 4 + SIZES.pattern.longest
    found += list(blocks)
    assert taken[-1] == 40 + SIZES.pattern.longest
    assert len(taken) < 20  # several at once
    assert np.array_equal(np.concatenate(found, axis=2)[0], tokens(model, job)[0])


def test_a_share_of_the_probability_is_left_to_torch(folders: dict[str, Path]) -> None:
    job = Job("calm", 13, seed=2, sampling=Sampling(top_k=None, top_p=0.4))
    ours, theirs = (tokens(loaded(folders["mono"], "float32", each), job) for each in (True, False))
    assert np.array_equal(ours, theirs)


def test_two_pieces_at_once_are_each_its_own(folders: dict[str, Path]) -> None:
    model = loaded(folders["mono"], "float32", True)
    expected = [tokens(model, job)[0] for job in JOBS[:3]]
    found: dict[int, np.ndarray] = {}

    def make(index: int) -> None:
        found[index] = tokens(model, JOBS[index])[0]

    makers = [threading.Thread(target=make, args=(index,)) for index in range(3)]
    for each in makers:
        each.start()
    for each in makers:
        each.join(60)
    assert all(np.array_equal(found[index], each) for index, each in enumerate(expected))


def test_torch_takes_the_steps_where_kernels_cannot(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(musicgen_model, "COMPILED_FROM", 0)
    choice = choose("torch", "cpu", "int8")
    assert engine_for(SIZES, choice) is CompiledEngine
    assert engine_for(SIZES, choose("torch", "cpu", "bfloat16")) is CompiledEngine
    assert engine_for(replace(SIZES, ffn_dim=72), choice) is Engine
    assert engine_for(replace(SIZES, num_attention_heads=8), choice) is Engine
    assert engine_for(SIZES, replace(choice, device="cuda")) is GraphEngine
    with monkeypatch.context() as patch:
        patch.setattr(
            compiling_numba.llvm,
            "get_host_cpu_features",
            lambda: {"avx512f": True, "avx512bw": True, "avx512vnni": False},
        )
        assert engine_for(SIZES, choice) is Engine
        assert engine_for(SIZES, replace(choice, quantize=None)) is CompiledEngine
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        assert engine_for(SIZES, choice) is Engine
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="numba cannot be loaded"):
        patch.setitem(sys.modules, "hemiola.musicgen.compiled_torch", None)
        assert engine_for(SIZES, choice) is Engine
    monkeypatch.undo()
    assert engine_for(SIZES, choice) is Engine  # too small to be worth it


def test_weights_are_those_of_the_decoder_that_gave_them() -> None:
    torch.manual_seed(3)
    sizes = replace(SIZES, ffn_dim=80)
    decoder = Decoder(sizes, 64)
    fused = FusedDecoder(sizes, decoder.state_dict())
    plain = fused.layers[1].fc1
    kernels = Kernels(fused, "float32")
    packed = kernels.weights.fc1.packed[1]
    beside = packed[: 64 * SIZES.hidden_size].reshape(SIZES.hidden_size, 64)  # four blocks of 16 stand side by side
    assert np.array_equal(beside, plain.numpy()[:, :64])
    assert np.array_equal(packed[beside.size :].reshape(SIZES.hidden_size, 16), plain.numpy()[:, 64:])
