"""Blocks of any size join to what the networks make of the whole at once."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hemiola.codec import tiles
from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import DecoderStream, Encodec, EncoderStream
from hemiola.codec.encoded import Encoded, Part
from hemiola.codec.kernels_torch import one_group_normed
from hemiola.codec.model import EncodecModel
from hemiola.errors import InputError

THIN = {"num_filters": 4, "hidden_size": 8, "codebook_size": 16}
CONFIGS = {
    "24khz": EncodecConfig(**THIN, target_bandwidths=(1.2,)),
    "32khz": EncodecConfig(
        **THIN,
        target_bandwidths=(0.8,),
        sampling_rate=32000,
        upsampling_ratios=(8, 5, 4, 4),
        use_causal_conv=False,
        use_conv_shortcut=False,
    ),
    "48khz": EncodecConfig(
        **THIN,
        target_bandwidths=(6.0,),
        sampling_rate=48000,
        audio_channels=2,
        normalize=True,
        chunk_length_s=1.0,
        overlap=0.01,
        norm_type="time_group_norm",
        use_causal_conv=False,
    ),
    "constant": EncodecConfig(**THIN, target_bandwidths=(1.2,), pad_mode="constant", use_causal_conv=False),
    "trimmed": EncodecConfig(**THIN, target_bandwidths=(1.2,), trim_right_ratio=0.5, num_lstm_layers=1),
    "dilated": EncodecConfig(**THIN, target_bandwidths=(1.2,), num_residual_layers=3, upsampling_ratios=(5, 3)),
}
LOCAL = [name for name in CONFIGS if name != "48khz"]
LENGTHS = (1, 2, 319, 320, 321, 641, 960, 4003)


@functools.cache
def codec(name: str) -> Encodec:
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        model = Encodec(CONFIGS[name]).eval()
        for book in model.quantizer.codebooks:
            book.embed.copy_(torch.randn_like(book.embed))
        for parameter in model.parameters():
            # As initialised, a signal fades on its way: mistakes at the edges would hide.
            parameter.data *= 1.6
    return model


def cut(array: np.ndarray, rng: np.random.Generator, longest: int, least: int = 0) -> list[np.ndarray]:
    """The last axis in blocks of random sizes; none at all among them unless `least` says otherwise."""
    blocks, start = [], 0
    while start < array.shape[-1]:
        size = int(rng.integers(least, longest + 1))
        blocks.append(array[..., start : start + size])
        start += size
    return blocks


def joined(feed, blocks: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([feed(block, index == len(blocks) - 1) for index, block in enumerate(blocks)], axis=-1)


def apart(found: np.ndarray, expected: torch.Tensor) -> float:
    """The largest difference, in parts of the largest value."""
    assert found.shape == tuple(expected.shape)
    return float(np.abs(found - expected.numpy()).max() / expected.abs().max())


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("name", LOCAL)
@torch.no_grad()
def test_blocks_of_audio_join_to_the_latents_of_the_whole(name: str, rows: int) -> None:
    model, rng = codec(name), np.random.default_rng(rows)
    for samples in LENGTHS:
        audio = rng.standard_normal((rows, 1, samples)).astype(np.float32)
        expected = model.latents(torch.tensor(audio))
        for longest in (samples, 7 + samples // 5):
            assert apart(joined(EncoderStream(model), cut(audio, rng, longest)), expected) < 1e-5


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("name", LOCAL)
@torch.no_grad()
def test_blocks_of_codes_join_to_the_audio_of_the_whole(name: str, rows: int) -> None:
    model, rng = codec(name), np.random.default_rng(rows)
    for frames in (1, 2, 3, 4, 5, 8, 31):
        codes = rng.integers(0, 16, (rows, 3, frames)).astype(np.int32)
        expected = model.synthesize(model.dequantize(torch.tensor(codes)))
        for longest in (1, 2, frames):
            assert apart(joined(DecoderStream(model), cut(codes, rng, longest)), expected) < 1e-5


def one_pass(model: Encodec, audio: np.ndarray) -> np.ndarray:
    """Codes of the network's own forward pass."""
    with torch.no_grad():
        return model.quantize(model.latents(torch.tensor(audio)), model.config.codebooks).numpy()


@pytest.mark.parametrize("name", ["24khz", "32khz", "48khz"])
@pytest.mark.parametrize("seed", range(20))
def test_a_stream_of_any_length_and_blocks_is_the_whole(name: str, seed: int) -> None:
    network, rng = codec(name), np.random.default_rng(seed)
    model, hop = EncodecModel(network.config, network), network.config.timebase.hop
    # 48 kHz goes by chunks of a second: lengths around one, and one short of two.
    samples = int(rng.integers(47000, 96001)) if name == "48khz" else int(rng.integers(1, 30 * hop))
    audio = rng.standard_normal((1, model.channels, samples)).astype(np.float32)
    longest = int(rng.integers(1, samples + 1)) if name != "48khz" else 40000
    encoded = model.encode(audio)
    parts = list(model.encode_stream(cut(audio, rng, longest, least=1)))
    gathered = Encoded.of(iter(parts), lambda: samples, chunked=name == "48khz")
    assert (gathered.length, gathered.batched) == (samples, False)
    assert all(map(np.array_equal, gathered.chunks, encoded.chunks)) and len(gathered.chunks) == len(encoded.chunks)
    assert all(map(np.array_equal, gathered.scales or (), encoded.scales or ()))
    assert len(gathered.scales or ()) == len(encoded.scales or ())
    if name == "48khz":
        for index, (part, codes, scale) in enumerate(zip(parts, encoded.chunks, encoded.scales or (), strict=True)):
            assert np.array_equal(part.codes, codes)
            assert np.array_equal(part.scale, scale)
            chunk = audio[..., 47520 * index :][..., :48000]
            assert np.array_equal(codes, one_pass(network, chunk / scale))
            with torch.no_grad():
                whole = network.synthesize(network.dequantize(torch.tensor(codes))) * float(scale[0, 0])
            decoded = np.concatenate(list(model.decode_stream([part])), axis=-1)
            assert apart(decoded, whole) < 1e-5
    else:
        codes = one_pass(network, audio)
        assert np.array_equal(np.concatenate([part.codes for part in parts], axis=-1), codes)
        assert np.array_equal(encoded.chunks[0], codes)
        parts = [Part(block) for block in cut(codes.astype(np.int32), rng, int(rng.integers(1, 9)), least=1)]
    decoded = np.concatenate(list(model.decode_stream(parts)), axis=-1)
    assert apart(decoded[..., :samples], torch.tensor(model.decode(encoded))) < 1e-5
    if name != "48khz":
        with torch.no_grad():
            whole = network.synthesize(network.dequantize(torch.tensor(encoded.chunks[0])))
        assert apart(decoded, whole) < 1e-5


@pytest.mark.parametrize("deep", [1, 8, 1000])
@pytest.mark.parametrize("name", ["24khz", "32khz", "dilated"])
def test_tiles_of_a_long_piece_join_to_one_pass(name: str, deep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = codec(name)
    model, rng = EncodecModel(network.config, network), np.random.default_rng(1)
    audio = rng.standard_normal((2, 1, 12345)).astype(np.float32)
    monkeypatch.setattr(tiles, "CACHE_BYTES", 1)
    monkeypatch.setattr(tiles, "LEAST_FRAMES", 3)
    monkeypatch.setattr(tiles, "DEEP_FRAMES", deep)
    encoded = model.encode(audio)
    assert np.array_equal(encoded.chunks[0], one_pass(network, audio))
    with torch.no_grad():
        whole = network.synthesize(network.dequantize(torch.tensor(encoded.chunks[0])))
    assert apart(model.decode(encoded), whole[..., :12345]) < 1e-5


@pytest.mark.parametrize(("name", "held_back"), [("24khz", 0), ("32khz", 2402)])
def test_what_is_final_is_given_at_once(name: str, held_back: int) -> None:
    model = codec(name)
    feed, hop = DecoderStream(model), model.config.timebase.hop
    codes = np.random.default_rng(0).integers(0, 16, (1, 2, 12)).astype(np.int32)
    given = np.cumsum([feed(codes[..., frame : frame + 1], False).shape[-1] for frame in range(12)])
    # A causal codec reflects seven frames before the first; then there is nothing more to wait for.
    first = 7 if name == "24khz" else 4
    expected = [max(0, (frame + 1) * hop - held_back) if frame + 1 >= first else 0 for frame in range(12)]
    assert given.tolist() == expected


def test_group_norm_without_chunks_waits_for_the_whole() -> None:
    config = EncodecConfig(**THIN, target_bandwidths=(1.2,), norm_type="time_group_norm", upsampling_ratios=(3, 2))
    model = EncodecModel(config, Encodec(config).eval())
    audio = np.random.default_rng(0).standard_normal((1, 1, 67)).astype(np.float32)
    encoded = model.encode(audio)
    (part,) = model.encode_stream([audio[..., :30], audio[..., 30:]])
    assert np.array_equal(part.codes, encoded.chunks[0])
    (decoded,) = model.decode_stream([Part(part.codes[..., :5]), Part(part.codes[..., 5:])])
    assert np.array_equal(decoded[..., :67], model.decode(encoded))


def test_a_stream_refuses_what_the_whole_refuses() -> None:
    model = EncodecModel(CONFIGS["24khz"], codec("24khz"))
    with pytest.raises(InputError, match="from 0 to 15"):
        list(model.decode_stream([Part(np.full((1, 2, 3), 16, np.int32))]))
    assert list(model.decode_stream([])) == []
    assert list(model.encode_stream([])) == []


@pytest.mark.parametrize("name", ["24khz", "32khz"])
def test_what_a_stream_keeps_does_not_grow_and_weights_stay_as_they_are(name: str) -> None:
    model, rng = codec(name), np.random.default_rng(0)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    codes = rng.integers(0, 16, (1, 2, 5)).astype(np.int32)
    audio = rng.standard_normal((1, 1, 5 * model.config.timebase.hop)).astype(np.float32)
    for feed, block in ((DecoderStream(model), codes), (EncoderStream(model, 2), audio)):
        kept = []
        for _ in range(12):
            feed(block, False)
            kept.append(sum(map(bytes_in, feed.network.steps)))
        assert kept[4:] == kept[4:5] * 8
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def bytes_in(step: object) -> int:
    """Bytes that a layer of a stream keeps from block to block."""
    found = 0
    for name, value in vars(step).items():
        if name in ("held", "state"):
            tensors = value if isinstance(value, tuple) else (value,)
            found += sum(tensor.untyped_storage().nbytes() for tensor in tensors if tensor is not None)
        elif hasattr(value, "held"):
            found += bytes_in(value)
    return found


KEPT = """
import numpy as np
from hemiola.codec.encoded import Encoded
from hemiola.codec.model import EncodecModel

def resident_kilobytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

def blocks():
    noise = np.random.default_rng(0).standard_normal((1, 1 << 18)).astype(np.float32)
    for count in range(61):
        if count in (10, 60):
            held.append(resident_kilobytes())
        yield noise.copy()

held = []
model = EncodecModel.from_pretrained("sketch-24khz", backend="torch", device="cpu")
Encoded.of(model.encode_stream(blocks()), lambda: 1, chunked=False)
print(held[1] - held[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what is resident")
def test_codes_that_are_kept_do_not_keep_the_layers_memory() -> None:
    """Eleven minutes; with the parts in a list it grew by 170 MB."""
    grown = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 60_000


def test_group_norm_in_place_is_torchs_of_a_second_of_sound() -> None:
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(1, 32)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    x = torch.randn(2, 48000, 32) * torch.rand(32) + 3  # a mean that lies far from 0
    x[1, 100:] = 3
    with torch.inference_mode():
        expected = torch.nn.functional.group_norm(x.mT.double(), 1, norm.weight.double(), norm.bias.double(), norm.eps)
        found = one_group_normed(x.clone(), norm)
    assert (found - expected.mT).abs().max() < 1e-5 * expected.abs().max()
