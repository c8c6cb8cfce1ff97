"""Whole generations on a tiny checkpoint: batches, seeds, lengths, streams, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hemiola.errors import InputError, WeightsError
from hemiola.musicgen import checkpoint_torch
from hemiola.musicgen.batch import Job
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.sampling import Sampling

PROMPT = np.random.default_rng(2).integers(64, size=(4, 6))

JOBS = [
    Job("slow piano with rain and a bass line", 21, seed=1),
    Job("calm", 13, seed=2, sampling=Sampling(top_k=5)),
    Job(None, 30, seed=3),
    Job("bright drums", 17, seed=4, sampling=Sampling(guidance=1, temperature=0)),
    Job("", 9, seed=5, sampling=Sampling(guidance=7.5, top_k=None, top_p=0.7, temperature=1.4)),
    Job("calm", 26, seed=2, variation=1, negative="drums in minor"),
    Job("slow bass", 19, seed=6, prompt=PROMPT),
]


def written(model: MusicgenModel, *jobs: Job) -> list[np.ndarray]:
    (codes,) = model.tokens(jobs)
    return [rows[:, : job.frames] for job, rows in zip(jobs, codes)]


@pytest.fixture(scope="module")
def alone(model: MusicgenModel) -> list[np.ndarray]:
    return [written(model, job)[0] for job in JOBS]


@pytest.mark.parametrize("order", [range(7), range(6, -1, -1), (2, 4, 1), (3, 2), (1, 5), (6, 0)])
def test_a_batch_of_different_jobs_equals_each_alone(
    model: MusicgenModel, alone: list[np.ndarray], order: tuple[int, ...]
) -> None:
    for index, found in zip(order, written(model, *(JOBS[index] for index in order))):
        assert np.array_equal(found, alone[index]), index


def test_codes_are_codes_for_the_whole_length(model: MusicgenModel, alone: list[np.ndarray]) -> None:
    for job, codes in zip(JOBS, alone):
        assert codes.shape == (4, job.frames)
        assert codes.dtype == np.int32
        assert ((codes >= 0) & (codes < 64)).all()
    assert np.array_equal(alone[6][:, :6], PROMPT)
    # Beyond a shorter job's end the row is special, so that it cannot be taken for music.
    (codes,) = model.tokens(JOBS[:2])
    assert (codes[1, :, 13:] == 64).all()


def test_seed_and_variation_name_the_music(model: MusicgenModel) -> None:
    job = Job("calm piano", 12, seed=8)
    again, other, third = (written(model, each)[0] for each in (job, replace(job, seed=9), replace(job, variation=1)))
    assert np.array_equal(again, written(model, job)[0])
    assert not np.array_equal(again, other)
    assert not np.array_equal(again, third)
    assert not np.array_equal(other, third)


def test_a_longer_piece_begins_like_a_shorter_one(model: MusicgenModel) -> None:
    # The last two frames differ: while they are finished, the shorter piece has no next frame to look at.
    short, long = written(model, Job("calm piano", 12, seed=8))[0], written(model, Job("calm piano", 40, seed=8))[0]
    assert np.array_equal(long[:, :10], short[:, :10])


def test_a_piece_goes_on_with_the_draws_of_its_place(model: MusicgenModel) -> None:
    whole = Job(None, 20, seed=8)
    codes = written(model, whole)[0]
    # Given its own beginning as a prompt, the piece must go on as it did.
    assert np.array_equal(written(model, replace(whole, prompt=codes[:, :7]))[0], codes)
    moved = replace(whole, prompt=codes[:, :7], start=100)
    assert not np.array_equal(written(model, moved)[0], codes)


@pytest.mark.parametrize("block_frames", [1, 4, 20, 99])
@pytest.mark.parametrize("jobs", [JOBS[:1], JOBS[5:], JOBS])
def test_blocks_join_to_the_whole(model: MusicgenModel, block_frames: int, jobs: list[Job]) -> None:
    (whole,) = model.tokens(jobs)
    steps = []
    blocks = list(
        model.tokens(jobs, block_frames=block_frames, progress=lambda done, total: steps.append((done, total)))
    )
    assert np.array_equal(np.concatenate(blocks, axis=-1), whole)
    assert all(block.shape[-1] >= block_frames for block in blocks[:-1])
    known = min(job.prompt_frames for job in jobs)
    total = max(job.frames for job in jobs) + 3 - known
    assert steps == [(done, total) for done in range(1, total + 1)]


def test_frame_t_goes_out_when_step_t_plus_3_is_taken(model: MusicgenModel) -> None:
    taken = []
    stream = model.tokens([Job("calm", 10)], block_frames=1, progress=lambda done, total: taken.append(done))
    for frame, block in enumerate(stream):
        assert block.shape == (1, 4, 1)
        assert len(taken) == frame + 1 + 3


def test_stop_ends_the_stream_without_another_step(model: MusicgenModel) -> None:
    taken = []
    stream = model.tokens(
        [Job("calm", 50)],
        block_frames=1,
        progress=lambda done, total: taken.append(done),
        stop=lambda: len(taken) >= 8,
    )
    assert len(list(stream)) == 5
    assert len(taken) == 8


@pytest.mark.parametrize("frames", [1, 2, 3, 30])
def test_stereo_has_eight_codebooks_and_as_many_steps(stereo_model: MusicgenModel, frames: int) -> None:
    taken = []
    (codes,) = stereo_model.tokens([Job("calm", frames)], progress=lambda done, total: taken.append(total))
    assert codes.shape == (1, 8, frames)
    assert taken == [frames + 3] * (frames + 3)


@pytest.mark.parametrize("samples", [0, 1, 83, 88])
def test_audio_is_cut_to_the_sample(model: MusicgenModel, stereo_model: MusicgenModel, samples: int) -> None:
    for each in (model, stereo_model):
        (codes,) = each.tokens([Job("calm", 11)])
        audio = each.decode(codes[0], samples)
        assert audio.shape == (each.channels, samples)
        assert audio.dtype == np.float32


def test_stereo_channels_are_two_mono_decodings(stereo_model: MusicgenModel) -> None:
    (codes,) = stereo_model.tokens([Job("calm", 11)])
    audio = stereo_model.decode(codes[0], 88)
    swapped = codes[0].reshape(4, 2, 11)[:, ::-1].reshape(8, 11)
    np.testing.assert_allclose(stereo_model.decode(swapped, 88), audio[::-1], atol=1e-6)
    assert not np.allclose(audio[0], audio[1])


def test_encoding_lays_codebooks_as_decoding_reads_them(stereo_model: MusicgenModel) -> None:
    audio = np.random.default_rng(0).normal(size=(2, 88)).astype(np.float32)
    codes = stereo_model.encode(audio)
    assert codes.shape == (8, 11)
    for channel in range(2):
        alone = stereo_model.codec.encode(audio[channel : channel + 1]).chunks[0][0]
        assert np.array_equal(codes[channel::2], alone[:4])


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"frames": 0}, "at least 1 frame"),
        ({"frames": 6, "prompt": PROMPT}, "leaves nothing to write"),
        ({"frames": 9, "prompt": PROMPT[:3]}, r"codes \[4, frames\]"),
        ({"frames": 9, "prompt": PROMPT + 60}, "from 0 to 63"),
        ({"frames": 9, "seed": -1}, "seed"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused(model: MusicgenModel, job: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(model.tokens([Job("calm", **job)]))


def test_no_jobs_and_wrong_shapes_are_refused(model: MusicgenModel) -> None:
    with pytest.raises(InputError, match="at least one job"):
        list(model.tokens([]))
    with pytest.raises(InputError, match=r"\[4, frames\]"):
        model.decode(np.zeros((8, 3), dtype=np.int32), 5)
    with pytest.raises(InputError, match=r"\[1, samples\]"):
        model.encode(np.zeros((2, 30), dtype=np.float32))


def test_requests_leave_no_trace_on_the_model(model: MusicgenModel) -> None:
    first = model.tokens([JOBS[0]], block_frames=1)
    opening = [next(first) for _ in range(4)]
    written(model, *JOBS[1:4])
    rest = list(first)
    assert np.array_equal(np.concatenate([*opening, *rest], axis=-1)[0], written(model, JOBS[0])[0])


def change(checkpoint: Path, folder: Path, config: dict | None = None, drop: str = "", add: str = "") -> Path:
    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    if add:
        tensors[add] = torch.zeros(2)
    save_file({name: each for name, each in tensors.items() if name != drop}, folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text())
    for part, changes in (config or {}).items():
        values[part] |= changes
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": "enc_to_dec_proj.bias"}, "enc_to_dec_proj.bias"),
        ({"drop": "decoder.lm_heads.3.weight"}, "lm_heads.3.weight"),
        ({"drop": "text_encoder.shared.weight"}, "shared.weight"),
        ({"drop": "audio_encoder.quantizer.layers.1.codebook.embed"}, "layers.1.codebook.embed"),
        ({"add": "decoder.model.extra"}, "model.extra"),
        ({"add": "stray.weight"}, "stray.weight"),
        ({"config": {"decoder": {"ffn_dim": 50}}}, "fc1.weight"),
        ({"config": {"decoder": {"activation_function": "relu"}}}, "activation_function 'relu'"),
        ({"config": {"decoder": {"scale_embedding": True}}}, "scale_embedding"),
        ({"config": {"decoder": {"num_attention_heads": 5}}}, "5 heads"),
        ({"config": {"decoder": {"pad_token_id": 0}}}, "pad_token_id 0"),
        ({"config": {"decoder": {"hidden_size": "32"}}}, "hidden_size"),
        ({"config": {"decoder": {"cross_attention_hidden_size": 16}}}, "cross_attention_hidden_size"),
        ({"config": {"text_encoder": {"model_type": "bert"}}}, "model_type 'bert'"),
        ({"config": {"text_encoder": {"feed_forward_proj": "silu"}}}, "silu"),
        ({"config": {"text_encoder": {"vocab_size": 10}}}, "tokens|shared.weight"),
        ({"config": {"audio_encoder": {"normalize": True}}}, "without normalization"),
        ({"config": {"audio_encoder": {"codebook_size": 32}}}, "64 tokens"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(checkpoint: Path, tmp_path: Path, changes: dict, message: str) -> None:
    folder = change(checkpoint, tmp_path / "changed", **changes)
    with pytest.raises(WeightsError, match=message):
        MusicgenModel.from_pretrained(folder, backend="torch", device="cpu")


@pytest.mark.parametrize("kind", ["musicgen_style", "encodec"])
def test_another_kind_of_model_is_named(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(checkpoint, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(WeightsError, match=f"'{kind}', wanted 'musicgen'"):
        MusicgenModel.from_pretrained(tmp_path / "other", backend="torch", device="cpu")


def test_training_does_not_go_on_from_a_melody_model(family: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match="is a melody model, which training cannot go on from"):
        checkpoint_torch.load_parts(family["melody"])


def test_a_checkpoint_without_tokenizer_says_so(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "mute")
    (tmp_path / "mute" / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="not a readable tokenizer"):
        MusicgenModel.from_pretrained(tmp_path / "mute", backend="torch", device="cpu")
    (tmp_path / "mute" / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match=r"has no tokenizer\.json"):
        MusicgenModel.from_pretrained(tmp_path / "mute", backend="torch", device="cpu")


def test_weights_that_are_not_numbers_are_an_error_and_not_noise(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "broken")
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    tensors["decoder.lm_heads.2.weight"][:] = torch.nan
    save_file(tensors, tmp_path / "broken" / "model.safetensors")
    model = MusicgenModel.from_pretrained(tmp_path / "broken", backend="torch", device="cpu")
    with pytest.raises(WeightsError, match="not numbers"):
        list(model.tokens([Job("calm", 5)]))


def test_text_is_tokens_and_an_end(model: MusicgenModel) -> None:
    assert model.tokenizer.encode("slow rain") == [3, 6, 1]
    assert model.tokenizer.encode("") == [1]
    assert model.tokenizer.encode("slow zebra") == [3, 2, 1]
