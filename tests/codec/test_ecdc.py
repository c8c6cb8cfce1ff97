"""Meta's container: the bytes that its own writer makes, equal codes after a round trip, and 2,000 damaged files."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola.codec import ecdc
from hemiola.codec.codes import Codes
from hemiola.codec.config import ENCODEC_24KHZ, ENCODEC_32KHZ, ENCODEC_48KHZ, EncodecConfig
from hemiola.codec.encodec_torch import Encodec
from hemiola.codec.encoded import Encoded
from hemiola.codec.model import EncodecModel
from hemiola.errors import AudioError, InputError

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIGS = {config.sampling_rate: config for config in (ENCODEC_24KHZ, ENCODEC_48KHZ)}


def random_codes(config: EncodecConfig, length: int, codebooks: int, seed: int = 0) -> Codes:
    """Codes as the codec would give for so many samples; chunks begin every 47520 samples at 48 kHz."""
    draw = np.random.default_rng(seed)
    starts = [0] if config.chunk_length is None else range(0, length, 47520)
    spans = [length if config.chunk_length is None else min(48000, length - start) for start in starts]
    chunks = [draw.integers(0, 1024, (1, codebooks, -(-span // 320))).astype(np.int32) for span in spans]
    scales = tuple(draw.uniform(1e-8, 1, (1, 1)).astype(np.float32) for _ in chunks) if config.normalize else None
    encoded = Encoded(tuple(chunks), scales, length, batched=False)
    return Codes(encoded, "facebook/any", "", config.sampling_rate, config.audio_channels)


def assert_same(found: Codes, wanted: Codes) -> None:
    assert found.encoded.length == wanted.encoded.length
    assert len(found.encoded.chunks) == len(wanted.encoded.chunks)
    for one, other in zip(found.encoded.chunks, wanted.encoded.chunks):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.int32
    assert (found.encoded.scales is None) == (wanted.encoded.scales is None)
    for one, other in zip(found.encoded.scales or (), wanted.encoded.scales or ()):
        np.testing.assert_array_equal(one, other)
        assert (one.dtype, one.shape) == (np.float32, (1, 1))


def in_order(codebooks: int, frames: int, start: int) -> np.ndarray:
    """The codes that stand in the golden files."""
    place = codebooks * np.arange(frames)[None] + np.arange(codebooks)[:, None]
    return ((start + 389 * place + 17 * np.arange(codebooks)[:, None] ** 2) % 1024)[None].astype(np.int32)


GOLDEN_CODES = {
    "encodec_24khz": Codes(Encoded((in_order(2, 10, 5),), None, 2881, batched=False), "", "", 24000, 1),
    "encodec_48khz": Codes(
        Encoded(
            (in_order(2, 150, 3), in_order(2, 2, 900)),
            (np.array([[0.25]], np.float32), np.array([[1e-8]], np.float32)),
            48001,
            batched=False,
        ),
        "",
        "",
        48000,
        2,
    ),
}


@pytest.mark.parametrize("name", GOLDEN_CODES)
def test_files_are_what_metas_own_writer_makes(name: str, tmp_path: Path) -> None:
    golden = GOLDEN / f"{name}.ecdc"
    found = ecdc.load(golden)
    assert_same(found, GOLDEN_CODES[name])
    assert (found.model, found.revision) == (f"facebook/{name}", "")
    ecdc.save(tmp_path / "again.ecdc", GOLDEN_CODES[name])
    assert (tmp_path / "again.ecdc").read_bytes() == golden.read_bytes()


def test_bits_by_hand() -> None:
    # 1 = 0000000001, 2 = 0000000010, 1023 = 1111111111: each from its lowest bit, bytes filled from their lowest.
    assert ecdc.pack(np.array([1, 2, 1023]), 10) == bytes([0b00000001, 0b00001000, 0b11110000, 0b00111111])
    assert ecdc.unpack(bytes([0b00000001, 0b00001000, 0b11110000, 0b00111111]), 3, 10).tolist() == [1, 2, 1023]


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 16), count=st.integers(1, 60), seed=st.integers(0, 9))
def test_packing_is_one_long_binary_number(bits: int, count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << bits, count)
    number = sum(int(value) << bits * place for place, value in enumerate(values))
    packed = ecdc.pack(values, bits)
    assert packed == number.to_bytes(-(-bits * count // 8), "little")
    assert ecdc.unpack(packed, count, bits).tolist() == values.tolist()


@settings(max_examples=60, deadline=None)
@given(rate=st.sampled_from([24000, 48000]), length=st.integers(1, 150_000), codebooks=st.integers(1, 16))
def test_a_round_trip_gives_equal_codes(rate: int, length: int, codebooks: int, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("codes") / "x.ecdc"
    codes = random_codes(CONFIGS[rate], length, codebooks)
    ecdc.save(path, codes)
    assert_same(ecdc.load(path), codes)


@pytest.mark.parametrize("rate", CONFIGS)
@pytest.mark.parametrize("length", [1, 47_520, 47_521, 48_000, 100_001])
def test_what_the_codec_makes_is_decoded_alike(rate: int, length: int, tmp_path: Path) -> None:
    codec = tiny(CONFIGS[rate])
    audio = 0.3 * np.random.default_rng(length).standard_normal((codec.channels, length)).astype(np.float32)
    encoded = codec.encode(audio, codec.config.target_bandwidths[0])
    ecdc.save(tmp_path / "x.ecdc", Codes(encoded, "", "", codec.sampling_rate, codec.channels))
    np.testing.assert_array_equal(codec.decode(ecdc.load(tmp_path / "x.ecdc").encoded), codec.decode(encoded))


def tiny(config: EncodecConfig) -> EncodecModel:
    """A codec with the layout of a published one, and random weights that cost nothing."""
    small = replace(config, num_filters=4, hidden_size=4, num_lstm_layers=1)
    assert ecdc.model_of(small) == ecdc.model_of(config)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return EncodecModel(small, Encodec(small).eval())


def mutations(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Damaged files: flipped bits, cuts, bytes more or less, and headers that lie."""
    draw = np.random.default_rng(seed)
    head = 9 + struct.unpack("!4sBI", content[:9])[2]
    facts = json.loads(content[9:head])
    for number in range(count):
        kind = number % 5
        if kind == 0:  # bits, anywhere
            yield flipped(content, draw, len(content))
        elif kind == 1:  # bits of the header
            yield flipped(content, draw, head)
        elif kind == 2:
            yield content[: draw.integers(0, len(content))]
        elif kind == 3:
            place = int(draw.integers(0, len(content)))
            yield content[:place] + draw.bytes(int(draw.integers(1, 50))) + content[place + draw.integers(0, 9) :]
        else:
            name = ("m", "al", "nc", "lm")[draw.integers(0, 4)]
            changed = {key: value for key, value in facts.items() if key != name}
            lie = LIES[draw.integers(0, len(LIES))]
            text = json.dumps(changed if lie is ... else {**changed, name: lie}).encode()
            size = len(text) if draw.integers(0, 4) else int(draw.integers(0, 1 << 32))
            yield struct.pack("!4sBI", b"ECDC", 0, size) + text + content[head:]


LIES = [..., None, True, False, 0, 1, -1, 2, 7, 16, 17, 10**6, 10**9, 10**15, 10**300, 1.5, 1e308, float("nan")]
LIES += [float("inf"), "", "encodec_24khz", "encodec_48khz", "../x", "x" * 100_000, [], {}, [[[]]], [1] * 1000]


def flipped(content: bytes, draw: np.random.Generator, end: int) -> bytes:
    damaged = bytearray(content)
    for place in draw.integers(0, 8 * end, draw.integers(1, 6)):
        damaged[place // 8] ^= 1 << place % 8
    return bytes(damaged)


@pytest.mark.parametrize("rate", CONFIGS)
def test_two_thousand_damaged_files_are_an_error_or_codes(rate: int, tmp_path: Path) -> None:
    config, path = CONFIGS[rate], tmp_path / "x.ecdc"
    codec = tiny(config)
    ecdc.save(path, random_codes(config, 49_000, 2))
    whole = path.read_bytes()
    outcomes = {"error": 0, "codes": 0, "decoded": 0}
    tracemalloc.start()
    for content in mutations(whole, 1000, seed=rate):
        path.write_bytes(content)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            found = ecdc.load(path)
        except InputError as error:
            outcomes["error"] += 1
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)
            assert len(str(error)) < len(str(path)) + 200
            continue
        finally:
            # In proportion to the file, whatever it claims.
            assert tracemalloc.get_traced_memory()[1] - before < 500_000 + 100 * len(content)
        outcomes["codes"] += 1
        codec.check_codes(found.encoded)
        if outcomes["codes"] % 40 == 1:
            outcomes["decoded"] += 1
            try:
                assert codec.decode(found.encoded).shape == (codec.channels, found.encoded.length)
            except AudioError as error:
                assert "\n" not in str(error)
    tracemalloc.stop()
    assert outcomes["error"] > 500
    assert outcomes["codes"] > 100
    assert outcomes["decoded"] >= 3


def claiming(facts: object, rest: bytes = b"") -> bytes:
    text = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
    return struct.pack("!4sBI", b"ECDC", 0, len(text)) + text + rest


GOOD = {"m": "encodec_24khz", "al": 320, "nc": 4, "lm": False}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an .ecdc file"),
        (b"RIFF....WAVE", "is not an .ecdc file"),
        (b"ECDC\0", "within its first bytes"),
        (struct.pack("!4sBI", b"ECDC", 1, 2) + b"{}", "of version 1"),
        (struct.pack("!4sBI", b"ECDC", 0, 2**32 - 1) + b"{}", "4294967295 bytes of header"),
        (claiming(b"{"), "not JSON"),
        (claiming(b"\xff"), "not JSON"),
        (claiming(b"[" * 60_000), "not JSON"),
        (claiming(b" " * 70_000), "70000 bytes of header"),
        (claiming([]), "holds no facts"),
        (claiming({**GOOD, "lm": True}), "encode it again without --lm"),
        (claiming({**GOOD, "lm": 0}), "how it is coded"),
        (claiming({**GOOD, "m": "encodec_32khz"}), 'of a codec "encodec_32khz"'),
        (claiming({**GOOD, "al": 10**300}), "samples long"),
        (claiming({**GOOD, "al": 24000 * 86400}), "is cut short: 0 bytes cannot hold"),
        (claiming({**GOOD, "al": True}), "samples long"),
        (claiming({**GOOD, "nc": 33}), "no 33 codebooks"),
        (claiming(GOOD, b"1234"), "is cut short: 4 bytes cannot hold"),
        (
            claiming({**GOOD, "al": 100, "nc": 1}, b"1"),
            "is cut short: its header tells of 2 bytes of codes, 1 are there",
        ),
        (claiming(GOOD, b"123456"), "is damaged: its header tells of 5 bytes of codes, 6 are there"),
        (claiming({**GOOD, "m": "encodec_48khz"}, struct.pack("!f", -1) + b"12345"), "chunk 0"),
        (claiming({**GOOD, "m": "encodec_48khz"}, struct.pack("!f", float("nan")) + b"12345"), "chunk 0"),
        (claiming({**GOOD, "m": "encodec_48khz"}, struct.pack("!f", 1e30) + b"12345"), "chunk 0"),
    ],
)
def test_what_is_wrong_is_said(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.ecdc"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.ecdc ") as error:
        ecdc.load(path)
    assert message in str(error.value)
    path.write_bytes(claiming(GOOD, b"12345"))
    assert ecdc.load(path).encoded.chunks[0].shape == (1, 4, 1)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ecdc")  # to open it would be to wait for ever
    for name, message in (("nosuch.ecdc", "cannot be read"), (".", "is not a file"), ("pipe.ecdc", "is not a file")):
        with pytest.raises(InputError, match=message):
            ecdc.load(tmp_path / name)


def test_codes_of_another_codec_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="encodec_24khz or encodec_48khz"):
        ecdc.model_of(ENCODEC_32KHZ)
    assert ecdc.model_of(replace(ENCODEC_24KHZ, target_bandwidths=(3.0,))) == "encodec_24khz"
    for change in ({"codebook_size": 512}, {"audio_channels": 2}, {"target_bandwidths": (48.0,)}):
        with pytest.raises(InputError, match="built otherwise"):
            ecdc.model_of(replace(ENCODEC_24KHZ, **change))
    good = random_codes(ENCODEC_24KHZ, 3200, 2)
    chunk = good.encoded.chunks[0]
    bad = {
        "of another rate": replace(good, sampling_rate=32000),
        "with scales": replace(good, encoded=replace(good.encoded, scales=(np.ones((1, 1), np.float32),))),
        "too long": replace(good, encoded=replace(good.encoded, length=3201)),
        "too large": replace(good, encoded=replace(good.encoded, chunks=(chunk + 1024,))),
        "below zero": replace(good, encoded=replace(good.encoded, chunks=(chunk - 1024,))),
        "a batch": replace(good, encoded=replace(good.encoded, chunks=(np.concatenate([chunk, chunk]),))),
    }
    for name, codes in bad.items():
        with pytest.raises(InputError):
            ecdc.save(tmp_path / f"{name}.ecdc", codes)
    assert not list(tmp_path.iterdir())
