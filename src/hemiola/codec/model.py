"""`EncodecModel`: audio to codes and back in numpy, on whichever backend is there."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemiola.backend import Backend, choose
from hemiola.codec import chunks, plan, streams
from hemiola.codec.config import EncodecConfig
from hemiola.codec.encoded import Encoded, Part
from hemiola.codec.streams import Feed
from hemiola.errors import AudioError, BackendError, InputError
from hemiola.timebase import Timebase
from hemiola.weights import checkpoint, hub

# Chunks go through the network side by side, but only as many as keep the widest layer in memory that is used again.
ROWS_AT_ONCE = 4


class EncodecModel:
    """A neural codec: `encode` audio into codes, `decode` them, or take the `latents` in between."""

    def __init__(self, config: EncodecConfig, network: Any) -> None:
        self.config = config
        self._network = network

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        backend: str = "auto",
        device: str = "auto",
        dtype: str = "float32",
        allow_pickle: bool = False,
    ) -> EncodecModel:
        """Load an EnCodec checkpoint, or the codec inside a MusicGen checkpoint, from a hub name or a folder.

        Raises BackendError, DownloadError, or WeightsError for a checkpoint that is incomplete or not supported.
        """
        choice = choose(backend, device, dtype)
        if choice.quantize is not None:
            raise BackendError(f"a codec is not quantised, as {dtype} would have it: ask for float32 or bfloat16")
        folder = hub.locate(name_or_path, allow_pickle=allow_pickle).folder
        values, tensors = checkpoint.read_codec(folder, choice.name, allow_pickle=allow_pickle)
        return cls.from_tensors(tensors, EncodecConfig.from_dict(values), choice, where=str(name_or_path))

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Any], config: EncodecConfig, choice: Backend, *, where: str = "codec"
    ) -> EncodecModel:
        """A codec from a checkpoint's tensors, in the arrays of the chosen backend; `where` opens error messages."""
        network = importlib.import_module(f"hemiola.codec.encodec_{choice.name}")
        return cls(config, network.load(tensors, config, choice, where=where))

    @property
    def network(self) -> Any:
        """The backend's own `Encodec`, for training and for whoever works on tensors."""
        return self._network

    @property
    def timebase(self) -> Timebase:
        """The codec's clock."""
        return self.config.timebase

    @property
    def channels(self) -> int:
        """Channels of the audio: 1 or 2."""
        return self.config.channels

    @property
    def sampling_rate(self) -> int:
        """Samples a second, in Hz."""
        return self.config.sampling_rate

    @property
    def chunk_length(self) -> int | None:
        """Samples in a chunk, or None when the whole is coded at once."""
        return self.config.chunk_length

    @property
    def chunk_stride(self) -> int | None:
        """Samples from the start of a chunk to the start of the next, or None when there are no chunks."""
        return self.config.chunk_stride

    def encode(self, audio: NDArray[np.floating], bandwidth: float | None = None) -> Encoded:
        """audio [channels, samples] or [B, channels, samples], one sample or more -> Encoded.

        bandwidth: in kbps, one of `config.target_bandwidths`; None is the highest. Raises InputError for another
        one, AudioError for audio that is empty, not finite, or of the wrong number of channels.
        """
        codebooks = self.config.codebooks_for(bandwidth)
        batch = self._checked(audio)
        cut = (batch[..., each] for each in chunks.windows(batch.shape[-1], self.chunk_length, self.chunk_stride))
        # Each piece is brought to its loudness when its turn comes: all of them at once would be the audio over again.
        scales: list[NDArray[np.float32]] = []
        pieces = (self._normalized(piece, scales) for piece in cut)
        codes = _side_by_side(partial(self._network.encode_array, codebooks=codebooks), pieces)
        return Encoded(tuple(codes), tuple(scales) or None, batch.shape[-1], batched=audio.ndim == 3)

    def decode(self, encoded: Encoded) -> NDArray[np.float32]:
        """Encoded -> audio [B, channels, length], or [channels, length] when that is what was encoded.

        Raises InputError for codes that this codec cannot have made.
        """
        self.check_codes(encoded)
        pieces = _scaled(_side_by_side(self._network.decode_array, encoded.chunks), encoded.scales)
        if len(encoded.chunks) == 1:
            audio = next(pieces)[..., : encoded.length]
        else:
            audio = np.empty((len(encoded.chunks[0]), self.channels, encoded.length), np.float32)
            done = 0
            for part in chunks.mixed(pieces, self.chunk_stride or 0):
                part = part[..., : encoded.length - done]
                audio[..., done : done + part.shape[-1]] = part
                done += part.shape[-1]
        return audio if encoded.batched else audio[0]

    def encode_stream(self, blocks: Iterable[NDArray[np.floating]], bandwidth: float | None = None) -> Iterator[Part]:
        """Blocks of audio, one after another, [channels, n] or [B, channels, n] of any n > 0 -> their codes in parts.

        What `encode` makes of all blocks joined, in memory that does not grow with them. Raises as `encode` does.
        """
        codebooks = self.config.codebooks_for(bandwidth)
        checked = (self._checked(block) for block in blocks)
        if self.chunk_length is None:
            feed = self._network.encoder_stream(codebooks)
            yield from (Part(codes) for codes in streams.fed(feed, checked, self._is_local) if codes.shape[-1])
            return
        for piece in streams.cut(checked, self.chunk_length, self.chunk_stride or self.chunk_length):
            scales: list[NDArray[np.float32]] = []
            codes = self._network.encode_array(self._normalized(piece, scales), codebooks=codebooks)
            yield Part(codes, scales[0] if scales else None)

    def decode_stream(self, parts: Iterable[Part]) -> Iterator[NDArray[np.float32]]:
        """Parts of codes, one after another -> audio [B, channels, n], each sample as soon as no later part changes it.

        Joined, the audio is whole frames long: cut it at the length that was encoded. Where the codec works in chunks
        a part is a chunk with its scale, else any number of frames. Raises InputError as `decode` does.
        """
        parts = (self._checked_part(part) for part in parts)
        if self.chunk_length is None:
            feed = self._network.decoder_stream()
            blocks = streams.fed(feed, (part.codes for part in parts), self._is_local)
        else:
            blocks = chunks.mixed(map(self._decoded, parts), self.chunk_stride or 0)
        yield from (block for block in blocks if block.shape[-1])

    def decoder(self) -> Feed:
        """A decoder to be fed by hand: called with codes [B, K, f] and whether they are the last, it gives final audio.

        For a codec that does not work in chunks; the codes are trusted.
        """
        feed: Feed = self._network.decoder_stream()
        return feed if self._is_local else streams.Gathered(feed)

    @property
    def _is_local(self) -> bool:
        return plan.is_local(plan.decoder_plan(self.config))

    def _decoded(self, part: Part) -> NDArray[np.float32]:
        audio: NDArray[np.float32] = self._network.decode_array(part.codes)
        return audio if part.scale is None else audio * part.scale[:, :, None]

    def _checked_part(self, part: Part) -> Part:
        scales = None if part.scale is None else (part.scale,)
        self.check_codes(Encoded((part.codes,), scales, 1))
        return part

    def latents(self, audio: NDArray[np.floating]) -> NDArray[np.float32]:
        """audio [channels, samples] or [B, channels, samples] -> latents [D, F] or [B, D, F], before any codebook.

        Raises AudioError as `encode` does, and for more than one chunk where the codec works in chunks.
        """
        batch = self._checked(audio)
        if self.chunk_length is not None and batch.shape[-1] > self.chunk_length:
            raise AudioError(f"this codec works in chunks of {self.chunk_length} samples: ask for the latents of one")
        latents = self._network.latents_array(self._normalized(batch, []))
        return latents if audio.ndim == 3 else latents[0]

    def _checked(self, audio: NDArray[np.floating]) -> NDArray[np.float32]:
        if not isinstance(audio, np.ndarray) or not np.issubdtype(audio.dtype, np.floating):
            raise AudioError(
                f"audio must be a numpy array of floats, not {getattr(audio, 'dtype', type(audio).__name__)}"
            )
        if audio.ndim not in (2, 3):
            raise AudioError(
                f"audio must be [channels, samples] or [batch, channels, samples], not {list(audio.shape)}"
            )
        if audio.shape[-2] != self.channels:
            raise AudioError(
                f"this codec takes audio of {self.channels} channel(s), not of {audio.shape[-2]}: convert it"
            )
        if audio.size == 0:
            raise AudioError("the audio is empty: there has to be at least one sample")
        if not np.isfinite(audio).all():
            raise AudioError("the audio holds values that are not finite (NaN or infinity): repair it first")
        return audio.astype(np.float32, copy=False).reshape(-1, *audio.shape[-2:])

    def _normalized(self, piece: NDArray[np.float32], scales: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        if not self.config.normalize:
            return piece
        # The loudness of each chunk, kept beside its codes: the mean square of the mono mix, and never quite zero.
        scales.append(np.sqrt(np.mean(piece.mean(1) ** 2, axis=1, keepdims=True)) + np.float32(1e-8))
        return piece / scales[-1][:, :, None]

    def check_codes(self, encoded: Encoded) -> None:
        """Raise InputError for codes that this codec cannot have made."""
        config, pieces = self.config, encoded.chunks
        if not pieces or (self.chunk_length is None and len(pieces) > 1):
            raise InputError(
                f"this codec decodes {'one chunk' if self.chunk_length is None else 'chunks'}, not {len(pieces)}"
            )
        for codes in pieces:
            if codes.ndim != 3 or 0 in codes.shape or codes.shape[:2] != pieces[0].shape[:2]:
                raise InputError(
                    f"codes must be [batch, codebooks, frames], alike in all chunks, not {list(codes.shape)}"
                )
            if codes.shape[1] > config.codebooks:
                raise InputError(f"this codec has {config.codebooks} codebooks, the codes use {codes.shape[1]}")
            if not np.issubdtype(codes.dtype, np.integer) or codes.min() < 0 or codes.max() >= config.codebook_size:
                raise InputError(f"codes must be whole numbers from 0 to {config.codebook_size - 1}")
        if (encoded.scales is not None) != config.normalize or len(encoded.scales or pieces) != len(pieces):
            raise InputError(f"this codec wants {len(pieces) if config.normalize else 'no'} scales beside the codes")
        self._check_lengths(encoded)

    def _check_lengths(self, encoded: Encoded) -> None:
        *before, last = [self.timebase.samples_of(codes.shape[-1]) for codes in encoded.chunks]
        stride = self.chunk_stride or 0
        if any(samples < stride for samples in before):
            raise InputError(f"a chunk before the last is shorter than the stride of {stride} samples")
        if not 0 < encoded.length <= stride * len(before) + last:
            raise InputError(f"{stride * len(before) + last} samples are coded, {encoded.length} cannot be decoded")


def _side_by_side(
    function: Callable[[NDArray[Any]], NDArray[Any]], arrays: Iterable[NDArray[Any]]
) -> Iterator[NDArray[Any]]:
    """`function` of each array [B, ...], with a few neighbours of one shape joined along the batch."""
    for shape, same in groupby(arrays, key=lambda array: array.shape):
        step = max(1, ROWS_AT_ONCE // shape[0])
        while some := list(islice(same, step)):
            # One alone is not copied: it may be an hour long.
            joined = some[0] if len(some) == 1 else np.concatenate(some)
            yield from np.split(function(joined), len(some))


def _scaled(
    pieces: Iterator[NDArray[np.float32]], scales: tuple[NDArray[np.float32], ...] | None
) -> Iterator[NDArray[np.float32]]:
    return pieces if scales is None else (piece * scale[:, :, None] for piece, scale in zip(pieces, scales))
