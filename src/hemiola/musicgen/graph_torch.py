"""Decoding on a GPU: a step that is the same computation every time, recorded once and launched as one thing."""

from __future__ import annotations

import contextlib
import copy
import functools
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hemiola.backend import Backend
from hemiola.musicgen.batch import NOISE_POSITIONS, Batch
from hemiola.musicgen.capture_torch import Capture, Ferry, Work
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.session_torch import Engine, Session

# Attention looks at a multiple of so many places, and a graph is recorded for each: with less, more time would go into
# recordings, with more, into places where nothing is written yet.
BUCKET = 512
# Places and words are made a multiple of these, so that batches of about one size can take the same graphs.
PLACES, WORDS = 128, 64
# These take a mask and need no preparation. Newer torch prefers cuDNN's kernel, which is planned anew for every shape.
_KERNELS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True)
class Form:
    """All that a step's computation depends on besides the values in its tensors.

    Attributes:
        rows, jobs: as a batch has them; the first `text_rows` rows read a text of `words` places.
        places: what is remembered of a row; `steps` positions are written.
        picking: what a picker knows beforehand, by name.
    """

    rows: int
    jobs: int
    text_rows: int
    words: int
    places: int
    steps: int
    picking: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, session: Session) -> Form:
        """The form of a session's steps, with room to spare."""
        steps = len(session.script) - 1
        known = vars(session.picker).items()
        return cls(
            rows=session.rows,
            jobs=len(session.partners),
            text_rows=session.text_rows,
            words=_multiple(session.text_caches[0].shape[3], WORDS),
            places=_multiple(session.ahead + steps, PLACES),
            steps=_multiple(steps, PLACES),
            picking=tuple((name, value) for name, value in known if not isinstance(value, Tensor)),
        )


class StaticStep(Session):
    """A step whose every operation is the same every time: what differs is in tensors, and those stay where they are.

    So it can be recorded. A batch is read into the tensors, and any other of the same form after it. It has a
    session's layers, and shares nothing with one, but for the decoder's weights.
    """

    # Added to what attention says of a place of the music and of the text: 0, or minus infinity where it is never seen.
    seen: Tensor
    allowed: Tensor

    @torch.inference_mode()
    def __init__(self, session: Session, capture: Capture) -> None:
        """Room for batches of the form that `session` is of; none is read in yet."""
        form, like = Form.of(session), session.decoder.embeddings
        self.form, self.decoder = form, session.decoder
        self.rows, self.text_rows = form.rows, form.text_rows
        self.repeats, self.partners = torch.empty_like(session.repeats), torch.empty_like(session.partners)
        self.guidance = torch.empty_like(session.guidance)
        self.picker: Any = copy.copy(session.picker)
        for name, value in _tensors(self.picker).items():
            setattr(self.picker, name, torch.empty_like(value))
        self.script = like.new_zeros(form.steps + 1, *session.script.shape[1:], dtype=torch.int64)
        self.written = torch.zeros_like(self.script)
        self.positions = like.new_zeros(form.rows, form.steps, like.shape[1])
        self.seen = like.new_zeros(form.rows, 1, 1, form.places)
        self.allowed = like.new_zeros(form.text_rows, 1, 1, form.words)
        self.caches = self._room(form.places)
        self.text_caches = [each.new_zeros(*each.shape[:3], form.words, each.shape[4]) for each in session.text_caches]
        self.order = torch.arange(form.places, device=like.device)
        self.position, self.place = (torch.zeros(1, dtype=torch.int64, device=like.device) for _ in range(2))
        shape = (NOISE_POSITIONS, *self.script.shape[1:], session.decoder.config.vocab_size)
        self.drawn = like.new_zeros(shape, dtype=torch.float32)
        self._ferry = Ferry(self.drawn)
        self._capture, self._pool = capture, capture.pool()
        self._launches: dict[int, Work | None] = {}

    @torch.inference_mode()
    def read(self, session: Session) -> None:
        """Take in another batch, which must be of this form, before its first step."""
        self.noise, self.ahead = session.noise, session.ahead
        for name in ("repeats", "partners", "guidance"):
            getattr(self, name).copy_(getattr(session, name))
        for name, value in _tensors(session.picker).items():
            getattr(self.picker, name).copy_(value)
        steps = len(session.script) - 1
        self.script[: steps + 1] = session.script
        self.positions[:, :steps] = session.positions
        self.seen.zero_()
        if session.seen is not None:
            self.seen[..., : session.ahead + steps] = _added(session.seen)
        words = session.text_caches[0].shape[3]
        self.allowed.fill_(-torch.inf)
        self.allowed[..., :words] = 0 if session.allowed is None else _added(session.allowed)
        for cache, theirs in zip(self.text_caches, session.text_caches):
            cache.zero_()[..., :words, :] = theirs
        # Nothing weighs 0 times what is not a number, and an earlier batch may have left that.
        for cache in self.caches:
            cache.zero_()
        self._brought = -1

    @torch.inference_mode()
    def run(self, tokens: Tensor, position: int, most: int) -> list[Tensor]:
        """Steps from tokens [jobs, K] at `position` on, `most` at most -> what they write, [jobs, K] each.

        So many as one block of noise and one bucket hold, at least one. They are launched, and not waited for. What
        they write stays until another batch is read.
        """
        first, place = position + 1, self.ahead + position
        bucket = min(_multiple(place + 1, BUCKET), self.form.places)
        count = min(most, NOISE_POSITIONS - first % NOISE_POSITIONS, bucket - place)
        if self._brought != first // NOISE_POSITIONS:
            self._brought = first // NOISE_POSITIONS
            self._ferry(self.noise.block(first))
        self.written[position] = tokens
        self.position.fill_(position)
        self.place.fill_(place)
        launch = self._launch(bucket)
        for _ in range(count):
            launch()
        return list(self.written[first : first + count])

    def _launch(self, bucket: int) -> Work:
        """What takes a step that looks at `bucket` places; a graph where there can be one."""
        work = functools.partial(self._advance, bucket)
        if bucket not in self._launches:
            start = self.position.clone(), self.place.clone()
            self._launches[bucket] = self._capture(work, functools.partial(self._rehearse, bucket, start), self._pool)
        return self._launches[bucket] or work

    def _rehearse(self, bucket: int, start: tuple[Tensor, Tensor]) -> None:
        """A step that the next one takes again: it writes the same to the same places."""
        self._advance(bucket)
        self.position.copy_(start[0])
        self.place.copy_(start[1])

    def _advance(self, bucket: int) -> None:
        """One step, and on to the next position. Nothing in here looks at a value, or asks the device for one."""
        self._bucket = bucket
        following = self.position + 1
        tokens = self.written.index_select(0, self.position)[0]
        with sdpa_kernel(_KERNELS):
            logits = self._guided(self._logits(self._embed(tokens, 0), 0, 1))
        noise = self.drawn.index_select(0, following % NOISE_POSITIONS)[0]
        wanted = self.script.index_select(0, following)[0]
        picked = torch.where(wanted < 0, self.picker(logits, noise), wanted)
        self.written.index_copy_(0, following, picked[None])
        self.position += 1
        self.place += 1

    # Where a session is told a position and a place, the tensors of that name say them.

    def _embed(self, tokens: Tensor, position: int) -> Tensor:
        places = tokens.index_select(0, self.repeats) + self.decoder.offsets
        summed = F.embedding(places, self.decoder.embeddings).sum(1)
        return summed + self.positions.index_select(1, self.position)[:, 0]

    def _allowed(self, place: int, count: int) -> Tensor:
        is_ahead = self.order[: self._bucket] > self.place
        return self.seen[..., : self._bucket].masked_fill(is_ahead, -torch.inf)

    def _remembered(self, index: int, pair: Tensor, place: int) -> Tensor:
        self.caches[index].index_copy_(3, self.place, pair)
        return self.caches[index].narrow(3, 0, self._bucket)


class GraphSession(Session):
    """A session whose steps are launched as graphs, many in a row, once what is longer than a step has been read."""

    @torch.inference_mode()
    def __init__(self, engine: GraphEngine, batch: Batch, states: Sequence[Tensor | None]) -> None:
        super().__init__(engine.decoder, batch, states)
        self._static = engine.lend(self)
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

    def lend(self, session: Session) -> StaticStep:
        """A static step of the session's form, for it alone until it is taken back."""
        form = Form.of(session)
        with contextlib.suppress(IndexError):  # where there is none
            spare = self._spare.pop()
            if spare.form == form:
                return spare
            del spare  # its memory may be needed
        return StaticStep(session, self._capture)

    def take_back(self, static: StaticStep) -> None:
        """Keep a static step for the next batch."""
        self._spare.append(static)


def _multiple(count: int, unit: int) -> int:
    """The least multiple of `unit` that is no less."""
    return -(-count // unit) * unit


def _tensors(picker: object) -> dict[str, Tensor]:
    return {name: value for name, value in vars(picker).items() if isinstance(value, Tensor)}


def _added(is_seen: Tensor) -> Tensor:
    """True and false -> 0 and minus infinity, to be added to what attention says."""
    return torch.zeros(is_seen.shape, device=is_seen.device).masked_fill(~is_seen, -torch.inf)
