"""Meta's container for EnCodec at 24 and 48 kHz, .ecdc, as it is without the arithmetic coder: packed codes in a file.

    4 bytes    ECDC
    1 byte     version, 0
    4 bytes    length of the header, unsigned, big end first
    header     JSON {"m": model, "al": samples of audio, "nc": codebooks, "lm": whether coded arithmetically}
    a chunk    its scale, a float32 with the big end first (48 kHz only); then the codes, all codebooks of a frame
               before the next frame, in the fewest bits that hold one, lowest bit first, filled up to a whole byte

How many chunks of how many frames follow is known from model and samples. Nothing is believed, and nothing is kept in
memory, before these sizes add up to the size of the file. Source: facebookresearch/encodec, compress.py and binary.py.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hemiola.audio.writing import replacing
from hemiola.codec import chunks
from hemiola.codec.codes import Codes
from hemiola.codec.config import ENCODEC_24KHZ, ENCODEC_48KHZ, EncodecConfig
from hemiola.codec.encoded import Encoded
from hemiola.errors import InputError
from hemiola.timebase import MAX_SECONDS

EXTENSION = ".ecdc"
MODELS = {"encodec_24khz": ENCODEC_24KHZ, "encodec_48khz": ENCODEC_48KHZ}
PUBLISHER = "facebook/"  # where the models of these names are found
LOUDEST_SCALE = 1e6  # of a chunk, whose scale is its RMS: far beyond any audio, and far from what float32 cannot hold

_MAGIC, _VERSION = b"ECDC", 0
_HEAD = struct.Struct("!4sBI")
_SCALE = struct.Struct("!f")
_LONGEST_HEADER = 1 << 16  # bytes; Meta writes about 60


def model_of(config: EncodecConfig) -> str:
    """Meta's name for a codec of this layout; raises InputError for one whose codes the container cannot hold."""
    for name, known in MODELS.items():
        if _layout(config) == _layout(known) and config.codebooks <= known.codebooks:
            return name
    raise InputError(
        f"{EXTENSION} holds codes of {' or '.join(MODELS)}, and this codec is built otherwise: "
        f"save as .safetensors, or pass --model {PUBLISHER}{next(iter(MODELS))}"
    )


def save(path: str | Path, codes: Codes, *, force: bool = False) -> None:
    """Write one piece, whole or not at all; the codec's sampling rate and channels say which of the two it is of.

    Raises InputError for codes that are not of such a codec, OutputError for a file that exists or cannot be written.
    """
    content = _content(codes)
    with replacing(path, force=force) as temporary:
        temporary.write_bytes(content)


def load(path: str | Path) -> Codes:
    """Read what `save`, or Meta's encodec without `--lm`, wrote; raises InputError for anything else or damaged."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file: name an {EXTENSION} file")
    try:
        with path.open("rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name an {EXTENSION} file") from error
    except InputError as error:
        raise InputError(f"{path} {error}") from None


def pack(values: NDArray[np.integer], bits: int) -> bytes:
    """Whole numbers [n] below 2**bits, at most 16 bits -> bytes; lowest bit first, and zeros up to a whole byte."""
    rows = np.ascontiguousarray(values, "<u2").view(np.uint8).reshape(-1, 2)
    return np.packbits(np.unpackbits(rows, axis=1, bitorder="little")[:, :bits], bitorder="little").tobytes()


def unpack(content: bytes, count: int, bits: int) -> NDArray[np.int32]:
    """The first `count` numbers of `bits` bits each: `pack` backwards."""
    rows = np.unpackbits(np.frombuffer(content, np.uint8), count=count * bits, bitorder="little").reshape(-1, bits)
    whole = np.packbits(rows, axis=1, bitorder="little").astype(np.int32)
    return whole @ (1 << 8 * np.arange(whole.shape[1], dtype=np.int32))


@dataclass(frozen=True)
class _Header:
    """What a file says of itself, as far as each value can be checked alone."""

    model: str
    length: int  # samples of audio
    codebooks: int

    @property
    def config(self) -> EncodecConfig:
        return MODELS[self.model]

    @property
    def least_bytes(self) -> int:
        """Bytes that the codes take at least: chunks overlap, and are filled up. A sum, so nothing is allocated."""
        return self.config.timebase.frames(self.length) * self.codebooks * _bits(self.config) // 8

    def frames(self) -> list[int]:
        """Frames in each chunk."""
        config = self.config
        windows = chunks.windows(self.length, config.chunk_length, config.chunk_stride)
        return [config.timebase.frames(window.stop - window.start) for window in windows]

    def bytes_of(self, frames: int) -> int:
        """Bytes of a chunk with its scale."""
        return self.scale_bytes - (-frames * self.codebooks * _bits(self.config) // 8)

    @property
    def scale_bytes(self) -> int:
        return _SCALE.size if self.config.normalize else 0


def _layout(config: EncodecConfig) -> tuple[Any, ...]:
    clock = (config.timebase, config.chunk_length, config.chunk_stride)
    return (*clock, config.audio_channels, config.normalize, config.codebook_size)


def _bits(config: EncodecConfig) -> int:
    return config.codebook_size.bit_length() - 1


def _content(codes: Codes) -> bytes:
    encoded = codes.encoded
    header = _Header(_named(codes), encoded.length, encoded.chunks[0].shape[-2])
    bits, frames = _bits(header.config), header.frames()
    if [chunk.shape for chunk in encoded.chunks] != [(1, header.codebooks, each) for each in frames]:
        raise InputError(f"these are not the chunks of one piece that {header.model} makes: encode it again")
    if header.config.normalize != (encoded.scales is not None):
        raise InputError(f"{header.model} has {'a' if header.config.normalize else 'no'} scale beside each chunk")
    if any(chunk.min() < 0 or chunk.max() >> bits for chunk in encoded.chunks):
        raise InputError(f"codes of {header.model} are numbers from 0 to {(1 << bits) - 1}")
    facts = {"m": header.model, "al": header.length, "nc": header.codebooks, "lm": False}
    text = json.dumps(facts).encode()
    parts = [_HEAD.pack(_MAGIC, _VERSION, len(text)), text]
    for index, chunk in enumerate(encoded.chunks):
        if encoded.scales is not None:
            parts.append(_SCALE.pack(encoded.scales[index].item()))
        parts.append(pack(chunk[0].T.ravel(), bits))
    return b"".join(parts)


def _named(codes: Codes) -> str:
    for name, config in MODELS.items():
        if (codes.sampling_rate, codes.channels) == (config.sampling_rate, config.channels):
            return name
    raise InputError(f"{EXTENSION} holds codes of {' or '.join(MODELS)} only: save as .safetensors")


def _read(file: BinaryIO, size: int) -> Codes:
    header = _header(file, size)
    config, rest = header.config, size - file.tell()
    if header.least_bytes > rest:
        raise InputError(f"is cut short: {rest} bytes cannot hold its {header.length} samples; encode it again")
    frames = header.frames()
    wanted = sum(map(header.bytes_of, frames))
    if wanted != rest:
        fault = "is cut short" if rest < wanted else "is damaged"
        raise InputError(f"{fault}: its header tells of {wanted} bytes of codes, {rest} are there; encode it again")
    pieces, scales = [], []
    for index, each in enumerate(frames):
        content = _exactly(file, header.bytes_of(each))
        if header.scale_bytes:
            scales.append(_scale(content, index))
        flat = unpack(content[header.scale_bytes :], each * header.codebooks, _bits(config))
        pieces.append(np.ascontiguousarray(flat.reshape(each, header.codebooks).T)[None])
    encoded = Encoded(tuple(pieces), tuple(scales) if header.scale_bytes else None, header.length, batched=False)
    return Codes(encoded, PUBLISHER + header.model, "", config.sampling_rate, config.channels)


def _header(file: BinaryIO, size: int) -> _Header:
    head = file.read(_HEAD.size)
    if head[: len(_MAGIC)] != _MAGIC:
        raise InputError(f"is not an {EXTENSION} file: name one that hemiola encode or Meta's encodec wrote")
    if len(head) < _HEAD.size:
        raise InputError("is cut short within its first bytes: encode it again")
    _, version, length = _HEAD.unpack(head)
    if version != _VERSION:
        raise InputError(f"is of version {version}, and only version {_VERSION} is known: encode it again")
    if length > min(_LONGEST_HEADER, size - _HEAD.size):
        raise InputError(f"is damaged: {length} bytes of header do not fit in it; encode it again")
    try:
        facts = json.loads(_exactly(file, length))
    except (ValueError, RecursionError):
        raise InputError("is damaged: its header is not JSON; encode it again") from None
    if not isinstance(facts, dict):
        raise InputError("is damaged: its header holds no facts; encode it again")
    return _checked(facts)


def _checked(facts: dict[str, Any]) -> _Header:
    model, length, codebooks, arithmetic = (facts.get(name) for name in ("m", "al", "nc", "lm"))
    if not isinstance(model, str) or model not in MODELS:
        raise InputError(f"is of a codec {_shown(model)}, and only {' and '.join(MODELS)} are known")
    if arithmetic is not False:
        if arithmetic is not True:
            raise InputError("is damaged: its header does not say how it is coded; encode it again")
        raise InputError(
            "is coded arithmetically with Meta's language model, which other machines cannot read back reliably: "
            "encode it again without --lm"
        )
    config = MODELS[model]
    if type(length) is not int or not 0 < length <= config.timebase.samples(MAX_SECONDS):
        raise InputError(f"is damaged: it cannot be {_shown(length)} samples long; encode it again")
    if type(codebooks) is not int or not 0 < codebooks <= config.codebooks:
        raise InputError(f"is damaged: {model} has no {_shown(codebooks)} codebooks; encode it again")
    return _Header(model, length, codebooks)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _exactly(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:  # it became shorter while it was read
        raise InputError("is cut short: encode it again")
    return content


def _scale(content: bytes, index: int) -> NDArray[np.float32]:
    (scale,) = _SCALE.unpack_from(content)
    if not 0 < scale < LOUDEST_SCALE:  # NaN as well
        raise InputError(f"is damaged: chunk {index} cannot have a scale of {scale:g}; encode it again")
    return np.array([[scale]], np.float32)
