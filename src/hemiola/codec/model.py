"""`EncodecModel`: audio to codes and back in numpy, on whichever backend is there."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemiola.backend import Backend, choose
from hemiola.codec import chunks
from hemiola.codec.config import EncodecConfig
from hemiola.errors import AudioError, InputError
from hemiola.timebase import Timebase
from hemiola.weights import checkpoint, hub

# Chunks go through the network side by side, but not more of them than fit in a modest memory.
ROWS_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Encoded:
    """What a codec makes of audio; `length` samples come back from it.

    chunks: codes int32 [B, codebooks, frames], one array unless the codec works in chunks. scales: beside each chunk
    a float32 [B, 1], or None where the codec does not normalise. batched: whether the audio had a batch axis.
    """

    chunks: tuple[NDArray[np.int32], ...]
    scales: tuple[NDArray[np.float32], ...] | None
    length: int
    batched: bool = True


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
        length = batch.shape[-1]
        pieces, scales = self._normalized(
            [batch[..., window] for window in chunks.windows(length, self.chunk_length, self.chunk_stride)]
        )
        codes = _side_by_side(partial(self._network.encode_array, codebooks=codebooks), pieces)
        return Encoded(tuple(codes), scales, length, batched=audio.ndim == 3)

    def decode(self, encoded: Encoded) -> NDArray[np.float32]:
        """Encoded -> audio [B, channels, length], or [channels, length] when that is what was encoded.

        Raises InputError for codes that this codec cannot have made.
        """
        self._check_codes(encoded)
        pieces = _side_by_side(self._network.decode_array, encoded.chunks)
        if encoded.scales is not None:
            pieces = [piece * scale[:, :, None] for piece, scale in zip(pieces, encoded.scales)]
        audio = chunks.overlap_add(pieces, self.chunk_stride or 0)[..., : encoded.length]
        return audio if encoded.batched else audio[0]

    def latents(self, audio: NDArray[np.floating]) -> NDArray[np.float32]:
        """audio [channels, samples] or [B, channels, samples] -> latents [D, F] or [B, D, F], before any codebook.

        Raises AudioError as `encode` does, and for more than one chunk where the codec works in chunks.
        """
        batch = self._checked(audio)
        if self.chunk_length is not None and batch.shape[-1] > self.chunk_length:
            raise AudioError(f"this codec works in chunks of {self.chunk_length} samples: ask for the latents of one")
        latents = self._network.latents_array(self._normalized([batch])[0][0])
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

    def _normalized(
        self, pieces: list[NDArray[np.float32]]
    ) -> tuple[list[NDArray[np.float32]], tuple[NDArray[np.float32], ...] | None]:
        if not self.config.normalize:
            return pieces, None
        # The loudness of each chunk, kept beside its codes: the mean square of the mono mix, and never quite zero.
        scales = [np.sqrt(np.mean(piece.mean(1) ** 2, axis=1, keepdims=True)) + np.float32(1e-8) for piece in pieces]
        return [piece / scale[:, :, None] for piece, scale in zip(pieces, scales)], tuple(scales)

    def _check_codes(self, encoded: Encoded) -> None:
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
    function: Callable[[NDArray[Any]], NDArray[Any]], arrays: Sequence[NDArray[Any]]
) -> list[NDArray[Any]]:
    """`function` of each array [B, ...], with neighbours of one shape joined along the batch."""
    results: list[NDArray[Any]] = []
    for shape, same in groupby(arrays, key=lambda array: array.shape):
        group, step = list(same), max(1, ROWS_AT_ONCE // shape[0])
        for start in range(0, len(group), step):
            some = group[start : start + step]
            results += np.split(function(np.concatenate(some)), len(some))
    return results
