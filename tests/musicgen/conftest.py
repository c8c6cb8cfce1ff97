"""A tiny MusicGen checkpoint with random weights, written by this package; and what stands for a CUDA device."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import graph_pieces
import pytest
import tokenizers
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import Encodec
from hemiola.musicgen import checkpoint_torch, static_torch
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.decoder_torch import Decoder
from hemiola.musicgen.graph_torch import GraphEngine
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.session_torch import Engine
from hemiola.musicgen.t5_torch import T5Encoder

WORDS = ["slow", "piano", "with", "rain", "calm", "bright", "drums", "and", "a", "bass", "line", "in", "minor"]


def write_tokenizer(folder: Path) -> Path:
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: 3 + index for index, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


TINY = DecoderConfig(
    vocab_size=64,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    ffn_dim=48,
    initializer_factor=0.3,
)


def write_checkpoint(folder: Path, config: DecoderConfig = TINY) -> Path:
    torch.manual_seed(config.audio_channels)
    text = T5Encoder(T5Config(vocab_size=30, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4))
    decoder = Decoder(config, text_width=16)
    codec = Encodec(
        EncodecConfig(
            target_bandwidths=(2.4,),
            sampling_rate=800,
            num_filters=2,
            hidden_size=8,
            codebook_size=64,
            upsampling_ratios=(4, 2),
            num_lstm_layers=1,
            use_causal_conv=False,
        )
    )
    checkpoint_torch.save(folder, text, decoder, codec, write_tokenizer(folder.parent))
    return folder


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[DecoderConfig], Path]:
    """Writes a checkpoint whose decoder is as given, and returns its folder."""
    return lambda config: write_checkpoint(tmp_path_factory.mktemp("musicgen") / "given", config)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("musicgen") / "tiny")


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> MusicgenModel:
    return MusicgenModel.from_pretrained(checkpoint, backend="torch", device="cpu")


@pytest.fixture(scope="session")
def stereo_model(tmp_path_factory: pytest.TempPathFactory) -> MusicgenModel:
    config = replace(TINY, num_codebooks=8, audio_channels=2)
    folder = write_checkpoint(tmp_path_factory.mktemp("musicgen") / "tiny-stereo", config)
    return MusicgenModel.from_pretrained(folder, backend="torch", device="cpu")


class Recording(TorchDispatchMode):
    """Stands for a CUDA graph: what is recorded is not carried out, and a replay repeats it on the same memory.

    Nothing of Python is run again, so what is not in a tensor stays as it was when it was recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        self.undo: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation._schema.is_mutable:
            self.undo.append((args[0], args[0].clone()))
        found = operation(*args, **(kwargs or {}))
        self.calls.append((operation, args, kwargs or {}, found))
        return found

    def capture_end(self) -> None:
        for tensor, before in reversed(self.undo):
            tensor.copy_(before)

    def replay(self) -> None:
        for operation, args, kwargs, found in self.calls:
            given = {each.untyped_storage().data_ptr() for each in tree_leaves((args, kwargs)) if is_tensor(each)}
            for old, new in zip(tree_leaves(found), tree_leaves(operation(*args, **kwargs))):
                if is_tensor(old) and old.untyped_storage().data_ptr() not in given:
                    old.copy_(new)


def is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


class Device:
    """Stands for torch.cuda: writes down what it is told, and refuses what torch.cuda would not understand."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.current = "usual"
        self.failing: str | None = None  # what goes wrong when something is to be recorded
        for name in ("CUDAGraph", "graph", "Stream", "stream", "device"):
            patch.setattr(torch.cuda, name, self._like(getattr(torch.cuda, name), getattr(self, name)))
        for name in ("current_stream", "set_stream", "graph_pool_handle"):
            patch.setattr(torch.cuda, name, self._like(getattr(torch.cuda, name), getattr(self, name)))

    @staticmethod
    def _like(real: Any, fake: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            inspect.signature(real).bind(*arguments, **named)
            return fake(*arguments, **named)

        return called

    def graph_pool_handle(self) -> str:
        return "pool"

    def Stream(self) -> SimpleNamespace:
        self.told.append("a stream")
        return self._stream("beside")

    def _stream(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, wait_stream=lambda other: self.told.append(f"{name} waits for {other.name}"))

    def current_stream(self) -> SimpleNamespace:
        return self._stream(self.current)

    def set_stream(self, stream: SimpleNamespace) -> None:
        self.current = stream.name

    @contextlib.contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def stream(self, stream: SimpleNamespace) -> Iterator[None]:
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    def CUDAGraph(self) -> Recording:
        return Recording()

    @contextlib.contextmanager
    def graph(self, graph: Recording, *, pool: str, stream: SimpleNamespace, capture_error_mode: str) -> Iterator[None]:
        assert (pool, stream.name, capture_error_mode) == ("pool", "beside", "thread_local")
        self.told.append("a graph")
        self.current = stream.name
        if self.failing is not None:
            try:
                raise RuntimeError(f"{self.failing}\nand much more")
            finally:
                raise RuntimeError("the recording is broken")
        with graph:
            yield
        graph.capture_end()
        self.current = "usual"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """In the place of torch.cuda."""
    return Device(monkeypatch)


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such that a piece of a second crosses several, and a ring of places goes round."""
    monkeypatch.setattr(static_torch, "BUCKET", 16)
    monkeypatch.setattr(static_torch, "PLACES", 8)
    monkeypatch.setattr(static_torch, "WORDS", 4)


@pytest.fixture(scope="module")
def folders(checkpoint_of: Callable[[DecoderConfig], Path]) -> dict[str, Path]:
    """Of each kind of `graph_pieces`, a checkpoint."""
    return {name: checkpoint_of(config) for name, config in graph_pieces.KINDS.items()}


@pytest.fixture(scope="module")
def usual(folders: dict[str, Path]) -> dict[str, MusicgenModel]:
    """Models whose sessions take their own steps."""
    return {name: graph_pieces.loaded(folder, Engine) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def ours(folders: dict[str, Path]) -> dict[str, MusicgenModel]:
    """Models with static steps; they are shared, so that whatever is made finds what was left before."""
    return {name: graph_pieces.loaded(folder, GraphEngine) for name, folder in folders.items()}
