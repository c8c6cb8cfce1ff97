"""`MusicgenModel`: a whole text-to-music checkpoint, from text to codes to audio, on whichever backend is there."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hemiola import backend as backends
from hemiola.codec.encoded import Encoded
from hemiola.codec.model import EncodecModel
from hemiola.errors import InputError, WeightsError
from hemiola.kernels.presence import needing_numba
from hemiola.musicgen import chroma, decode, queue
from hemiola.musicgen.batch import Batch, Job
from hemiola.musicgen.config import DecoderConfig, MelodyConfig, MusicgenConfig
from hemiola.musicgen.sampling import USUAL, Sampling
from hemiola.musicgen.tokenizer import Tokenizer
from hemiola.musicgen.windows import TRAINED_SECONDS
from hemiola.timebase import Timebase
from hemiola.weights import checkpoint, hub, keys

COMPILED_FROM = 50_000_000  # weights in a decoder's layers


class MusicgenModel:
    """Tokenizer, text encoder, decoder and codec of one checkpoint; it holds nothing of any one request."""

    def __init__(
        self,
        config: MusicgenConfig,
        tokenizer: Tokenizer,
        engine: Any,
        codec: EncodecModel,
        recommended: Sampling = USUAL,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.codec = codec
        self.recommended = recommended
        self._engine = engine
        if tokenizer.vocab_size > config.text.vocab_size:
            known = config.text.vocab_size
            raise WeightsError(f"the tokenizer has {tokenizer.vocab_size} tokens and the text encoder knows {known}")

    @property
    def engine(self) -> Any:
        """The backend's own engine, for whoever measures or takes apart what it does."""
        return self._engine

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        backend: str = "auto",
        device: str = "auto",
        dtype: str = "float32",
        quantize: int | None = None,
        allow_pickle: bool = False,
    ) -> MusicgenModel:
        """Load a MusicGen checkpoint: a bundled name, a folder, or a name on the hub.

        `dtype` is the decoder's; the text encoder and the codec, which run once a request, stay in float32. `quantize`
        keeps the decoder's matrices in 8 bits, on MLX also in 4: smaller and faster to read, not the same music.
        Raises BackendError, DownloadError, or WeightsError when the checkpoint does not fit its config.
        """
        choice = backends.choose(backend, device, dtype, quantize)
        folder = hub.locate(name_or_path, allow_pickle=allow_pickle).folder
        content = checkpoint.read(folder, choice.name, allow_pickle=allow_pickle)
        config, tensors = MusicgenConfig.from_dict(content.values), content.tensors
        tokenizer = Tokenizer.from_folder(content.tokenizer, config.text.eos_token_id)
        parts = {"text_encoder": keys.under(tensors, "text_encoder."), "decoder": decoder_part(tensors)}
        engine = engine_for(config.decoder, choice)(config.text, config.decoder, parts, choice)
        whole = replace(choice, dtype="float32", quantize=None)
        codec = EncodecModel.from_tensors(keys.under(tensors, "audio_encoder."), config.codec, whole)
        return cls(config, tokenizer, engine, codec, Sampling.from_folder(folder))

    @property
    def timebase(self) -> Timebase:
        """The codec's clock."""
        return self.config.codec.timebase

    @property
    def channels(self) -> int:
        """Channels of the music: 1 or 2."""
        return self.config.decoder.audio_channels

    @property
    def sampling_rate(self) -> int:
        """Samples a second, in Hz."""
        return self.config.codec.sampling_rate

    @property
    def codebooks(self) -> int:
        """Codebooks of the music, those of all channels."""
        return self.config.decoder.num_codebooks

    def tokens(
        self,
        jobs: Sequence[Job],
        *,
        block_frames: int | None = None,
        progress: decode.Progress | None = None,
        stop: decode.Stop | None = None,
    ) -> Iterator[np.ndarray]:
        """Write `jobs` side by side: blocks of codes, int32 [jobs, codebooks, n], as their frames finish.

        All blocks joined are as long as the longest job and begin with the prompts; a row past its own job's
        end holds no codes (`special`), so cut row j at `jobs[j].frames`. A block has at least `block_frames` frames,
        None means one block for all. `progress(done, total)` counts steps; `stop()` true ends the blocks early.
        Raises InputError for a prompt that does not fit, or a melody that the model does not take.
        """
        for job in jobs:
            self._check_melody(job.melody)
        batch = Batch(tuple(jobs), self.config.decoder.pattern)
        yield from decode.blocks(batch, self.session(batch), block_frames, progress=progress, stop=stop)

    def queue(
        self,
        jobs: Sequence[Job],
        following: queue.Following,
        side_by_side: int | None,
        *,
        counted: queue.Counted,
        stop: decode.Stop | None,
    ) -> Iterator[int]:
        """Write any number of jobs, so many (None: all) side by side: the number of each when nothing follows it.

        `following` is given every job's codes, and says what goes on after it: a job that differs in prompt, start and
        melody alone, and is no longer. `counted` is told how many steps were taken, each job's by themselves. On CUDA
        a job begins as soon as another one is through, elsewhere when a whole batch is.
        """
        side_by_side = min(side_by_side or len(jobs), len(jobs))
        make = getattr(self._engine, "slots", None)
        if make is None or side_by_side == len(jobs):

            def write(some: Sequence[Job], progress: decode.Progress) -> Iterator[np.ndarray]:
                return self.tokens(some, progress=progress, stop=stop)

            yield from queue.by_batches(jobs, following, write, side_by_side, counted)
            return
        for job in jobs:
            self._check_melody(job.melody)
        texts = {text for job in jobs for text in (job.text, job.negative) if text is not None}
        words = max((len(self.tokenizer.encode(text)) for text in texts), default=0)
        slots = make(side_by_side, jobs, functools.lru_cache(side_by_side)(self._states), words)
        with contextlib.closing(slots):
            yield from queue.by_slots(jobs, following, slots, side_by_side, counted, stop)

    def _states(self, text: str | None) -> Any:
        return None if text is None else self._engine.states(self.tokenizer.encode(text))

    def session(self, batch: Batch) -> Any:
        """Read the texts of a batch and begin to decode it: an object that takes steps, as `decode.Session` says."""
        states = {text: self._states(text) for text in set(batch.texts)}
        return self._engine.begin(batch, [states[text] for text in batch.texts])

    def melody(self, audio: np.ndarray, start: int = 0) -> np.ndarray:
        """Audio [channels, samples] at `sampling_rate` -> rows [chroma_length, num_chroma], to lead a job with.

        The rows are of the whole mix, for as long as a model was trained on, from sample `start` on. A shorter tune
        is repeated; so is one that `start` has left behind. Raises InputError for a model without melody.
        """
        wanted = self._melody_config()
        longest = self.timebase.samples(TRAINED_SECONDS)
        tune = audio.mean(axis=0)
        # From a later start on, the tune goes round; from its own start, its rows do.
        heard = np.take(tune, np.arange(start, start + longest), mode="wrap") if start else tune[:longest]
        return chroma.fitted(chroma.loudest(heard, self.sampling_rate, wanted.num_chroma), wanted.chroma_length)

    def _melody_config(self) -> MelodyConfig:
        if self.config.decoder.melody is None:
            raise InputError("this model takes no melody: choose one that does, such as facebook/musicgen-melody")
        return self.config.decoder.melody

    def _check_melody(self, melody: np.ndarray | None) -> None:
        if melody is None:
            return
        wanted = self._melody_config()
        if melody.shape != (wanted.chroma_length, wanted.num_chroma):
            shape = [wanted.chroma_length, wanted.num_chroma]
            raise InputError(f"a melody must be of shape {shape}, not {list(melody.shape)}")

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Audio [channels, samples] at `sampling_rate` -> codes int32 [codebooks, frames], to prompt a job with."""
        if audio.ndim != 2 or audio.shape[0] != self.channels:
            raise InputError(f"audio must be [{self.channels}, samples], not {list(audio.shape)}")
        # Each channel goes through the mono codec as a batch of its own.
        codes = self.codec.encode(audio[:, None]).chunks[0]
        per_channel = self.codebooks // self.channels
        return np.moveaxis(codes[:, :per_channel], 0, 1).reshape(self.codebooks, -1)

    def decode(self, codes: np.ndarray, samples: int) -> np.ndarray:
        """Codes [codebooks, frames] -> audio float32 [channels, samples], cut from what the frames decode to."""
        if codes.ndim != 2 or codes.shape[0] != self.codebooks:
            raise InputError(f"codes must be [{self.codebooks}, frames], not {list(codes.shape)}")
        if samples == 0:
            return np.zeros((self.channels, 0), dtype=np.float32)
        return self.codec.decode(Encoded((self._by_channel(codes),), None, samples))[:, 0]

    def sound(self, samples: int) -> Sound:
        """What makes audio of one piece, `samples` long, while its codes are still being written."""
        return Sound(self, samples)

    def _by_channel(self, codes: np.ndarray) -> np.ndarray:
        """[codebooks, frames] -> [channels, codebooks of one, frames]: the mono codec takes channels as a batch."""
        return np.stack([codes[channel :: self.channels] for channel in range(self.channels)])


class Sound:
    """Audio of one piece, block by block: called with its codes in order, it gives the samples that are final."""

    def __init__(self, model: MusicgenModel, samples: int) -> None:
        self._model, self._decoder = model, model.codec.decoder()
        self._samples, self._frames = samples, model.timebase.frames(samples)

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Codes [codebooks, n], n >= 0, that go on where the last ended -> audio float32 [channels, m].

        All of it is what `MusicgenModel.decode` makes of all codes; with the last frame comes the last sample.
        """
        if codes.shape[1] == 0:
            return np.zeros((self._model.channels, 0), np.float32)
        self._frames -= codes.shape[1]
        audio = self._decoder(self._model._by_channel(codes), self._frames <= 0)[:, 0, : self._samples]
        self._samples -= audio.shape[1]
        return audio


def engine_for(config: DecoderConfig, choice: backends.Backend) -> Any:
    """The class of engines for a decoder and a choice of backend.

    On CUDA steps are recorded as graphs. A large decoder on a CPU has its steps compiled, where numba is installed
    (`pip install 'hemiola[fast]'`) and the processor is one that it makes kernels for; for a small one, loading them
    would take longer than they save.
    """
    if (choice.name, choice.device.partition(":")[0]) == ("torch", "cuda"):
        return importlib.import_module("hemiola.musicgen.graph_torch").GraphEngine
    usual = importlib.import_module(f"hemiola.musicgen.session_{choice.name}").Engine
    weights = config.num_hidden_layers * config.hidden_size * (6 * config.hidden_size + 2 * config.ffn_dim)
    on_cpu = (choice.name, choice.device) == ("torch", "cpu")
    if not on_cpu or weights < COMPILED_FROM:
        return usual
    compiled = needing_numba("hemiola.musicgen.compiled_torch", "torch decodes")
    return usual if compiled is None or not compiled.fits(config, choice) else compiled.CompiledEngine


def decoder_part(tensors: dict[str, Any]) -> dict[str, Any]:
    """The decoder's tensors with the text projection, and with all that belongs nowhere, for the check to name."""
    others = ("text_encoder.", "audio_encoder.", "decoder.")
    return keys.under(tensors, "decoder.") | {
        name: tensor for name, tensor in tensors.items() if not name.startswith(others)
    }


def read_config(folder: Path) -> MusicgenConfig:
    """The configuration of a MusicGen folder; raises WeightsError when there is none that can be read."""
    return MusicgenConfig.from_dict(keys.json_of(folder / hub.CONFIG))
