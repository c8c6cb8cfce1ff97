"""Text to music on torch and on MLX: text states, logits, picks and whole generations from the same random weights."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import Encodec
from hemiola.errors import WeightsError
from hemiola.musicgen import (
    checkpoint_torch,
    decoder_mlx,
    decoder_torch,
    sampling_mlx,
    sampling_torch,
    t5_mlx,
    t5_torch,
)
from hemiola.musicgen.batch import Job
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.sampling import Sampling, draws, gumbels

WORDS = ["slow", "piano", "with", "rain", "calm", "bright", "drums", "and", "a", "bass", "line"]
TEXT = T5Config(
    vocab_size=30,
    d_model=20,
    d_kv=5,
    d_ff=24,
    num_layers=2,
    num_heads=4,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=20,
)
GATED = T5Config(vocab_size=30, d_model=20, d_kv=5, d_ff=24, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu")


def decoder_config(channels: int) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        ffn_dim=64,
        num_codebooks=4 * channels,
        audio_channels=channels,
        initializer_factor=0.3,
    )


def make_lively(module: torch.nn.Module, seed: int) -> None:
    """Every parameter random, norms and biases too: a mistake in what starts as 0 or 1 would not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(std=0.3, generator=generator).add_(float("norm.weight" in name))


def write_checkpoint(folder: Path, channels: int) -> Path:
    text, decoder = t5_torch.T5Encoder(TEXT), decoder_torch.Decoder(decoder_config(channels), TEXT.d_model)
    codec = Encodec(
        EncodecConfig(
            target_bandwidths=(2.4,),
            sampling_rate=800,
            num_filters=2,
            hidden_size=8,
            codebook_size=64,
            upsampling_ratios=(4, 2),
            use_causal_conv=False,
        )
    )
    for seed, part in enumerate((text, decoder, codec)):
        make_lively(part, seed)
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: 3 + index for index, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder.parent / "tokenizer.json"))
    checkpoint_torch.save(folder, text, decoder, codec, folder.parent / "tokenizer.json")
    return folder


@pytest.fixture(scope="module", params=[1, 2], ids=["mono", "stereo"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("parity") / "tiny", request.param)


@pytest.fixture(scope="module")
def models(checkpoint: Path) -> tuple[MusicgenModel, MusicgenModel]:
    on_torch, on_mlx = (MusicgenModel.from_pretrained(checkpoint, backend=each, device="cpu") for each in BACKENDS)
    return on_torch, on_mlx


BACKENDS = ("torch", "mlx")
PROMPT = np.random.default_rng(2).integers(64, size=(8, 6))


def jobs(codebooks: int) -> list[Job]:
    return [
        Job("slow piano with rain and a bass line", 21, seed=1),
        Job("calm", 13, seed=2, sampling=Sampling(top_k=5)),
        Job(None, 30, seed=3),
        Job("bright drums", 17, seed=4, sampling=Sampling(guidance=1, temperature=0)),
        Job("", 9, seed=5, sampling=Sampling(guidance=7.5, top_k=None, top_p=0.7, temperature=1.4)),
        Job("calm", 26, seed=2, variation=1, negative="drums in minor"),
        Job("slow bass", 19, seed=6, prompt=PROMPT[:codebooks]),
        Job("a bright line", 1, seed=7),
    ]


def written(model: MusicgenModel, some: list[Job], block_frames: int | None = None) -> np.ndarray:
    return np.concatenate(list(model.tokens(some, block_frames=block_frames)), axis=-1)


def arrays(module: torch.nn.Module) -> list[tuple[str, mx.array]]:
    return [(name, mx.array(tensor.numpy())) for name, tensor in module.state_dict().items()]


@pytest.mark.parametrize("config", [TEXT, GATED], ids=["relu", "gated"])
@pytest.mark.parametrize("length", [1, 7, 61])
def test_text_states_are_the_same(config: T5Config, length: int) -> None:
    on_torch, on_mlx = t5_torch.T5Encoder(config), t5_mlx.T5Encoder(config)
    make_lively(on_torch, length)
    on_mlx.load_weights(arrays(on_torch))
    tokens = np.random.default_rng(length).integers(30, size=(3, length))
    mask = np.ones((3, length), dtype=np.int64)
    mask[1, (length + 1) // 2 :] = 0
    with torch.inference_mode():
        wanted = on_torch(torch.tensor(tokens), torch.tensor(mask)).numpy()
    found = np.array(on_mlx(mx.array(tokens), mx.array(mask)))
    # MLX's exponentials on the CPU are good to 4e-7, and these random layers make more of it.
    assert np.abs(found - wanted)[mask > 0].max() < 3e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 20), (64, 256), (16, 100)])
def test_every_distance_falls_into_the_same_bucket(buckets: int, furthest: int) -> None:
    distances = np.arange(-1000, 1001)
    wanted = t5_torch.distance_buckets(torch.tensor(distances), buckets, furthest).numpy()
    assert np.array_equal(np.array(t5_mlx.distance_buckets(mx.array(distances), buckets, furthest)), wanted)


@pytest.mark.parametrize(("channels", "text_width"), [(1, 20), (2, 20), (1, 32)])
def test_logits_are_the_same(channels: int, text_width: int) -> None:
    config = decoder_config(channels)
    on_torch, on_mlx = decoder_torch.Decoder(config, text_width), decoder_mlx.Decoder(config, text_width)
    make_lively(on_torch, channels)
    on_mlx.load_weights(arrays(on_torch))
    generator = np.random.default_rng(text_width)
    tokens = generator.integers(65, size=(3, 4 * channels, 37))
    text = generator.normal(size=(3, 7, text_width)).astype(np.float32)
    # A whole text, a padded one, and none.
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3, [0] * 7])
    with torch.inference_mode():
        wanted = on_torch(torch.tensor(tokens), torch.tensor(text), torch.tensor(mask)).numpy()
    found = np.array(on_mlx(mx.array(tokens), mx.array(text), mx.array(mask)))
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)


EVERY = [
    Sampling(),
    Sampling(top_k=3),
    Sampling(temperature=0),
    Sampling(top_p=0.5, temperature=2.0),
    Sampling(top_k=1),
    Sampling(top_k=None, top_p=0.9, temperature=0.3),
    Sampling(top_k=None),
    Sampling(top_k=0, top_p=1.0, temperature=1.7),
]


@pytest.mark.parametrize(
    "settings", [EVERY, EVERY[:1] * 3, EVERY[2:3], EVERY[6:7]], ids=["all", "one", "greedy", "free"]
)
def test_the_same_logits_and_noise_pick_the_same_tokens(settings: list[Sampling]) -> None:
    generator = np.random.default_rng(len(settings))
    for turn in range(20):
        logits = (generator.normal(size=(len(settings), 4, 300)) * 2).astype(np.float32)
        logits[:, :, 5:9] = logits[:, :, :1]  # ties
        noise = gumbels(draws(turn, 0, range(len(settings)), 4, 300))
        if turn == 7:
            logits[:, 1, 17] = np.nan
        wanted = sampling_torch.Picker(settings, 300, torch.device("cpu"))(torch.tensor(logits), torch.tensor(noise))
        found = sampling_mlx.Picker(settings, 300)(mx.array(logits), mx.array(noise))
        assert np.array_equal(np.array(found), wanted.numpy())


def test_logits_that_differ_in_their_last_digits_pick_the_same_tokens() -> None:
    # As one backend differs from another; of the sums of 64 terms each, hundreds of picks would have differed.
    generator = np.random.default_rng(1)
    logits = (generator.normal(size=(1, 20000, 64)) * 3).astype(np.float32)
    other = (logits + generator.normal(size=logits.shape) * 1e-5).astype(np.float32)
    noise = mx.array(gumbels(draws(3, 0, range(20000), 1, 64)).swapaxes(0, 1))
    picker = sampling_mlx.Picker([Sampling(top_k=50)], 64)
    differ = np.array(picker(mx.array(logits), noise)) != np.array(picker(mx.array(other), noise))
    assert differ.sum() <= 3


@pytest.mark.slow  # MLX hands each fused operation to a C++ compiler, once a machine
def test_a_compiled_pick_is_the_same_pick() -> None:
    picker = sampling_mlx.Picker(EVERY, 40)
    compiled = mx.compile(picker.__call__)
    generator = np.random.default_rng(7)
    for turn in range(5):
        logits = mx.array((generator.normal(size=(len(EVERY), 4, 40)) * 2).astype(np.float32))
        noise = mx.array(gumbels(draws(turn, 0, range(len(EVERY)), 4, 40)))
        assert np.array_equal(np.array(compiled(logits, noise)), np.array(picker(logits, noise)))


def test_each_job_alone_and_all_together_write_the_same_tokens(models: tuple[MusicgenModel, MusicgenModel]) -> None:
    on_torch, on_mlx = models
    every = jobs(on_torch.codebooks)
    wanted = written(on_torch, every)
    assert len(np.unique(wanted)) > 8, "a decoder stuck on one token would prove little"
    together = written(on_mlx, every)
    assert together.dtype == np.int32
    assert np.array_equal(together, wanted)
    for job, rows in zip(every, wanted):
        assert np.array_equal(written(on_mlx, [job])[0], rows[:, : job.frames])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_of_one_setting_writes_the_same_music(
    models: tuple[MusicgenModel, MusicgenModel], batch: int, guidance: float
) -> None:
    some = [
        Job(text, 33, seed=index, sampling=Sampling(guidance=guidance))
        for index, text in enumerate(["calm piano", "", "drums"])
    ][:batch]
    wanted, found = (written(model, some) for model in models)
    assert np.array_equal(found, wanted)
    samples = models[0].timebase.samples_of(33) - 3
    theirs, ours = (model.decode(wanted[0], samples) for model in models)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_audio_that_prompts_becomes_the_same_codes(models: tuple[MusicgenModel, MusicgenModel]) -> None:
    audio = np.random.default_rng(0).normal(size=(models[0].channels, 83)).astype(np.float32)
    wanted, found = (model.encode(audio) for model in models)
    assert np.array_equal(found, wanted)


def test_blocks_join_to_the_whole(models: tuple[MusicgenModel, MusicgenModel]) -> None:
    _, on_mlx = models
    some = jobs(on_mlx.codebooks)[:3]
    assert np.array_equal(written(on_mlx, some, block_frames=4), written(on_mlx, some))


def test_threads_may_share_a_model_and_pass_a_stream_on(models: tuple[MusicgenModel, MusicgenModel]) -> None:
    # A server loads in one thread and pulls each block of a stream in whichever is free.
    _, on_mlx = models
    some = jobs(on_mlx.codebooks)
    wanted = written(on_mlx, some[:1])
    stream = on_mlx.tokens(some[:1], block_frames=3)
    blocks = []
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        for turn in range(100):
            block = (first, second)[turn % 2].submit(next, stream, None).result()
            if block is None:
                break
            blocks.append(block)
        decoded = second.submit(on_mlx.decode, wanted[0], 100).result()
    assert np.array_equal(np.concatenate(blocks, axis=-1), wanted)
    np.testing.assert_array_equal(decoded, on_mlx.decode(wanted[0], 100))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_starts_with_much_the_same_music(checkpoint: Path, dtype: str) -> None:
    exact = MusicgenModel.from_pretrained(checkpoint, backend="mlx", device="cpu")
    half = MusicgenModel.from_pretrained(checkpoint, backend="mlx", device="cpu", dtype=dtype)
    job = Job("calm piano", 8, seed=1)
    # The first step reads nothing but the text: its picks move with the logits alone, by a hundredth part or so.
    wanted, found = (written(model, [Job("calm piano", 1, seed=seed) for seed in range(16)]) for model in (exact, half))
    assert np.mean(wanted[:, 0] == found[:, 0]) > 0.7
    codes = written(half, [job])
    assert ((codes >= 0) & (codes < 64)).all()


def test_weights_that_are_not_numbers_are_an_error_and_not_noise(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "broken")
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    tensors["decoder.lm_heads.2.weight"][:] = torch.nan
    save_file(tensors, tmp_path / "broken" / "model.safetensors")
    model = MusicgenModel.from_pretrained(tmp_path / "broken", backend="mlx", device="cpu")
    for sampling in (Sampling(), Sampling(top_k=None), Sampling(top_p=0.5)):
        with pytest.raises(WeightsError, match="not numbers"):
            list(model.tokens([Job("calm", 5, sampling=sampling)]))


@pytest.mark.parametrize("name", ["enc_to_dec_proj.bias", "decoder.lm_heads.3.weight", "text_encoder.shared.weight"])
def test_a_tensor_that_is_missing_is_named(checkpoint: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(checkpoint, tmp_path / "changed")
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "changed" / "model.safetensors")
    with pytest.raises(WeightsError, match=name.removeprefix("decoder.").removeprefix("text_encoder.")):
        MusicgenModel.from_pretrained(tmp_path / "changed", backend="mlx", device="cpu")
