"""Sound files: read as and written from float32 [channels, samples], whole or not at all, never clipped in silence."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile

from hemiola.audio.writing import check_place, replacing
from hemiola.errors import AudioError, OutputError
from hemiola.timebase import MAX_SECONDS

# Extension -> libsndfile's format and, by our name, the encodings it can hold; the first is the default.
FORMATS = {
    ".wav": ("WAV", {"float": "FLOAT", "pcm16": "PCM_16", "pcm24": "PCM_24", "pcm32": "PCM_32"}),
    ".flac": ("FLAC", {"pcm24": "PCM_24", "pcm16": "PCM_16"}),
    ".ogg": ("OGG", {"vorbis": "VORBIS"}),
    ".mp3": ("MP3", {"mp3": "MPEG_LAYER_III"}),
}
# Loudest sample that every integer format can hold.
CEILING = 32767 / 32768

Append = Callable[[np.ndarray], None]

_BLOCK = 1 << 16
_WAV_BYTES = 1 << 32
_VORBIS_HZ = 200_000
_UNKNOWN = 1 << 62


@dataclass(frozen=True)
class Saved:
    """A file that was written: where, how encoded, and by how many dB it had to be turned down (0.0: not at all)."""

    path: Path
    encoding: str
    gain_db: float = 0.0


def read(path: str | Path) -> tuple[np.ndarray, int]:
    """A sound file -> (float32 [channels, samples], sample rate in Hz).

    Raises AudioError when the file is missing, not audio, empty, cut short, longer than a day, larger than memory
    allows, or holds values that are not finite.
    """
    with _opened(Path(path), soundfile.SoundFile) as file:
        return _read_all(Path(path), file), file.samplerate


@dataclass(frozen=True, eq=False)
class Reel:
    """A sound file to be read once, from its beginning; an MP3 may only guess its length in samples."""

    path: Path
    sample_rate: int
    channels: int
    length: int
    _file: soundfile.SoundFile

    def blocks(self, samples: int) -> Iterator[np.ndarray]:
        """Float32 [channels, samples], one after another; the last may be shorter. Raises AudioError as `read` does."""
        length = 0
        while (block := self._file.read(samples, dtype="float32", always_2d=True).T).size:
            length += block.shape[1]
            _refuse_infinite(self.path, block)
            yield block
        _refuse_cut(self.path, self._file, length)


@contextmanager
def opened(path: str | Path) -> Iterator[Reel]:
    """Open a sound file of any length, up to a day, for reading in memory that does not depend on it.

    Raises AudioError as `read` does.
    """
    path = Path(path)
    with _opened(path, _Forward) as file:
        _refuse_length(path, file)
        yield Reel(path, file.samplerate, file.channels, file.frames, file)


def write(
    path: str | Path, samples: np.ndarray, sample_rate: int, *, encoding: str | None = None, force: bool = False
) -> Saved:
    """Write float32 [channels, samples] in the format that the extension names; the file appears whole or not at all.

    `encoding` is one of the format's in FORMATS (default: the first). A float WAV keeps values past full scale; for
    every other encoding a peak above 1 is turned down to CEILING, and the gain is in the result. Raises OutputError.
    """
    path = Path(path)
    format_name, encoding, subtype = _format(path, encoding)
    peak = float(max(samples.max(initial=0.0), -samples.min(initial=0.0)))
    gain = CEILING / peak if encoding != "float" and peak > 1 else 1.0
    _refuse_size(path, samples.size * (2 if encoding == "pcm16" else 4), sample_rate)
    with replacing(path, force=force) as temporary:
        try:
            with soundfile.SoundFile(
                os.fsencode(temporary), "w", sample_rate, samples.shape[0], subtype, format=format_name
            ) as file:
                for start in range(0, samples.shape[1], _BLOCK):
                    block = samples[:, start : start + _BLOCK].T * np.float32(gain)
                    file.write(np.ascontiguousarray(_quantised(block, encoding)))
            _confirm(temporary, samples.shape[1])
            _forget_time(temporary)
        except (soundfile.SoundFileError, AssertionError) as error:
            shape = f"{samples.shape[0]} channels at {sample_rate} Hz as {format_name}"
            raise OutputError(f"{path} cannot be written ({shape}): {_cause(error)}") from error
    return Saved(path, encoding, 20 * math.log10(gain))


@contextmanager
def growing(path: str | Path, sample_rate: int, channels: int, *, force: bool = False) -> Iterator[Append]:
    """Lend what appends blocks, float32 [channels, n], to a float WAV; it appears whole at the end or not at all.

    The same samples make the same file as with `write`. Raises OutputError, for another extension too: any other
    encoding would have to know the peak beforehand.
    """
    path, length = Path(path), 0
    if path.suffix.lower() != ".wav":
        raise OutputError(f"{path} cannot grow block by block: name a .wav")
    with replacing(path, force=force) as temporary:
        try:
            with soundfile.SoundFile(os.fsencode(temporary), "w", sample_rate, channels, "FLOAT", format="WAV") as file:

                def append(block: np.ndarray) -> None:
                    nonlocal length
                    length += block.shape[1]
                    _refuse_size(path, length * channels * 4, sample_rate)
                    file.write(np.ascontiguousarray(block.T))

                yield append
            _confirm(temporary, length)
            _forget_time(temporary)
        except soundfile.SoundFileError as error:
            raise OutputError(f"{path} cannot be written: {_cause(error)}") from error


class _Forward(soundfile.SoundFile):
    """A file that is never sought in: soundfile seeks after every block, which an MP3 answers with other samples."""

    def seekable(self) -> bool:
        return False


@contextmanager
def _opened(path: Path, kind: type[soundfile.SoundFile]) -> Iterator[soundfile.SoundFile]:
    try:
        if not path.is_file():
            raise AudioError(f"{path} is not a file: name a sound file" if path.exists() else f"{path} does not exist")
        if path.stat().st_size == 0:
            raise AudioError(f"{path} is empty (0 bytes): export it again")
        with kind(os.fsencode(path)) as file:
            _refuse_cut_wav(path, file)
            yield file
    except (soundfile.SoundFileError, TypeError, OSError) as error:
        cause = "may not be read: check its permissions" if not os.access(path, os.R_OK) else _unreadable(error)
        raise AudioError(f"{path} {cause}") from error


def check_destination(path: str | Path, *, force: bool = False) -> None:
    """`check_place` for a sound file: its extension has to name a format as well."""
    check_place(path, force=force)
    _format(Path(path), None)


def check_rate(path: str | Path, sample_rate: int) -> None:
    """Raise OutputError now for a sample rate that the format of a sound file cannot hold."""
    path = Path(path)
    format_name, _, subtype = _format(path, None)
    _refuse_size(path, 0, sample_rate)
    try:
        # Nothing says which rates there are but the encoder itself.
        soundfile.SoundFile(BytesIO(), "w", sample_rate, 1, subtype, format=format_name).close()
    except soundfile.SoundFileError as error:
        raise OutputError(f"{format_name} cannot hold {sample_rate} Hz: ask for 44100, or save as .wav") from error


def _format(path: Path, encoding: str | None) -> tuple[str, str, str]:
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path} does not name a format: end it in {', '.join(FORMATS)}")
    name, encodings = FORMATS[path.suffix.lower()]
    encoding = encoding or next(iter(encodings))
    if encoding not in encodings:
        raise OutputError(f"{name} cannot hold encoding '{encoding}': one of {', '.join(encodings)}")
    return name, encoding, encodings[encoding]


def _refuse_size(path: Path, size: int, sample_rate: int) -> None:
    if path.suffix.lower() == ".wav" and size > _WAV_BYTES - 4096:
        raise OutputError(f"{path} would pass the 4 GiB that a WAV can hold: save as .flac")
    # libsndfile crashes the whole process above this rate instead of refusing it.
    if path.suffix.lower() == ".ogg" and sample_rate > _VORBIS_HZ:
        raise OutputError(f"OGG cannot hold {sample_rate} Hz ({_VORBIS_HZ} at most): resample it, or save as .wav")


def _quantised(block: np.ndarray, encoding: str) -> np.ndarray:
    """Round to the nearest step, which libsndfile does not (it cuts), so that what was read from a file survives."""
    if not encoding.startswith("pcm"):
        return block
    bits = int(encoding.removeprefix("pcm"))
    full = 1 << (bits - 1)
    steps = np.clip(np.rint(block.astype(np.float64) * full), -full, full - 1)
    return steps.astype(np.int32) << (32 - bits)


def _confirm(path: Path, length: int) -> None:
    written = soundfile.info(os.fsencode(path)).frames
    if written != length:
        raise OSError(f"only {written} of {length} samples arrived")


def _forget_time(path: Path) -> None:
    """Blank the time of writing that libsndfile puts into a float WAV: the same sound is the same bytes."""
    with path.open("r+b") as file:
        peak_chunk = file.read(256).find(b"PEAK") if path.suffix.lower() == ".wav" else -1
        if peak_chunk >= 0:
            file.seek(peak_chunk + 12)  # after the chunk's name, size and version
            file.write(bytes(4))


def _cause(error: Exception) -> str:
    text = str(error).partition(": ")[2] or str(error)
    if "System error" in text:
        return "the disk may be full, or closed to writing"
    return "too many channels for it; save as .wav" if "not recognised" in text else text.rstrip(".")


def _unreadable(error: Exception) -> str:
    text = str(error)
    if any(sign in text for sign in ("not recognised", "unimplemented", "samplerate must be", "not a regular file")):
        return "is not audio that can be read (wav, flac, ogg, mp3, aiff): convert it first, with ffmpeg for one"
    return f"is damaged or cut short ({text.rpartition(': ')[2].rstrip('.')}): export it again"


def _read_all(path: Path, file: soundfile.SoundFile) -> np.ndarray:
    _refuse_length(path, file)
    needed = file.frames * file.channels * 4 * 2
    if needed > _memory_bytes() // 2:
        raise AudioError(f"{path} needs {needed / 2**30:.0f} GiB of memory, too much for this machine: cut it first")
    # All at once: soundfile seeks after every block, which an MP3 answers with other samples.
    samples = np.ascontiguousarray(file.read(dtype="float32", always_2d=True).T)
    _refuse_cut(path, file, samples.shape[1])
    _refuse_infinite(path, samples)
    return samples


def _refuse_length(path: Path, file: soundfile.SoundFile) -> None:
    if file.frames >= _UNKNOWN:
        raise AudioError(f"{path} is a stream that does not say how long it is: convert it, with ffmpeg for one")
    if file.frames > MAX_SECONDS * file.samplerate:
        raise AudioError(f"{path} is longer than a day: cut it first")


def _refuse_cut(path: Path, file: soundfile.SoundFile, length: int) -> None:
    if not length:
        raise AudioError(f"{path} holds no samples: export it again")
    # The length of an MP3 without a header is a guess; anything else knows.
    slack = max(file.samplerate, file.frames // 100) if file.format == "MP3" else 0
    if length + slack < file.frames:
        raise AudioError(f"{path} is cut short: {length} of {file.frames} samples are there; export it again")


def _refuse_infinite(path: Path, samples: np.ndarray) -> None:
    if not np.isfinite(samples).all():
        raise AudioError(f"{path} holds values that are not finite (NaN or infinity): export it again")


def _refuse_cut_wav(path: Path, file: soundfile.SoundFile) -> None:
    """libsndfile mends a WAV that ends early and only logs it; sizes near the limit mean a stream of any length."""
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if found and int(found[2]) < int(found[1]) < 0x7FFFF000:
        raise AudioError(f"{path} is cut short: {found[2]} of {found[1]} bytes are there; export it again")


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 << 30
