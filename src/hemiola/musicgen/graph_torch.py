"""Decoding on a GPU: static steps, launched as graphs, for whole batches or slot by slot."""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hemiola.backend import Backend
from hemiola.musicgen.batch import Batch, Job
from hemiola.musicgen.capture_torch import Capture
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.session_torch import Engine, Session
from hemiola.musicgen.slots_torch import Slots, States
from hemiola.musicgen.static_torch import Form, StaticStep


class GraphSession(Session):
    """A session whose steps are launched as graphs, many in a row, once what is longer than a step has been read."""

    @torch.inference_mode()
    def __init__(self, engine: GraphEngine, batch: Batch, states: Sequence[Tensor | None]) -> None:
        super().__init__(engine.decoder, batch, states)
        self._static = engine.lend(Form.of(self), self.picker)
        self._static.read(self)
        self.caches = self._static.caches
        weakref.finalize(self, engine.take_back, self._static).atexit = False

    def steps(self, tokens: Tensor | np.ndarray, position: int, most: int) -> list[Tensor]:
        """Up to `most` steps for `decode`, and what they wrote; only `fetch` waits for the device.

        What is given stays valid as long as the session.
        """
        if position == 0 and (self.ahead or tokens.shape[2:] > (1,)):
            return super().steps(tokens, position, most)
        read = torch.as_tensor(tokens, device=self.script.device)
        return self._static.run(read.reshape(self.script.shape[1:]), position, most)

    def _room(self, places: int) -> list[Tensor]:
        return []  # the static step's are taken


class GraphEngine(Engine):
    """An engine whose sessions take static steps; those of the last batch serve the next one of the same form."""

    def __init__(
        self, text: T5Config, decoder: DecoderConfig, tensors: Mapping[str, Mapping[str, Tensor]], choice: Backend
    ) -> None:
        super().__init__(text, decoder, tensors, choice)
        self._capture = Capture(self.device)
        self._spare: deque[StaticStep] = deque(maxlen=1)

    def begin(self, batch: Batch, states: Sequence[Tensor | None]) -> Session:
        """Begin to decode `batch`; `states` are those of `batch.texts`, None where there is no text."""
        return GraphSession(self, batch, states)

    def slots(self, count: int, jobs: Sequence[Job], states: States, words: int) -> Slots:
        """Room for `count` jobs side by side, of `jobs` whose texts have up to `words` tokens; `states` reads them."""
        return Slots(self, count, jobs, states, words)

    def lend(self, form: Form, picker: object) -> StaticStep:
        """A static step of that form, which has what a picker knows, for one batch alone until it is taken back."""
        with contextlib.suppress(IndexError):  # where there is none
            spare = self._spare.pop()
            if spare.form == form:
                return spare
            del spare  # its memory may be needed
        return StaticStep(self.decoder, form, picker, self._capture)

    def take_back(self, static: StaticStep) -> None:
        """Keep a static step for the next batch."""
        self._spare.append(static)
