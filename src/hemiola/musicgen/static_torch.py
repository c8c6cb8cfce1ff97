"""A step that is the same computation every time, so that a GPU can be given all of it as one thing."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hemiola.musicgen.batch import NOISE_POSITIONS
from hemiola.musicgen.capture_torch import Capture, Ferry, Work
from hemiola.musicgen.fused_torch import FusedDecoder
from hemiola.musicgen.positions import sinusoids
from hemiola.musicgen.session_torch import Session

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
        places: of the ring in which all that is written and remembered stands.
        picking: what a picker knows beforehand, by name.
    """

    rows: int
    jobs: int
    text_rows: int
    words: int
    places: int
    picking: tuple[tuple[str, Any], ...]

    @classmethod
    def roomy(cls, rows: int, jobs: int, text_rows: int, words: int, places: int, picker: object) -> Form:
        """One with room to spare, so that others about as large have the same."""
        known = tuple((name, value) for name, value in vars(picker).items() if not isinstance(value, Tensor))
        return cls(rows, jobs, text_rows, _multiple(words, WORDS), _multiple(places, PLACES), known)

    @classmethod
    def of(cls, session: Session) -> Form:
        """The form of a session's steps."""
        words = session.text_caches[0].shape[3]
        places = session.ahead + len(session.script)
        return cls.roomy(session.rows, len(session.partners), session.text_rows, words, places, session.picker)


class StaticStep(Session):
    """A step whose every operation is the same every time: what differs is in tensors, and those stay where they are.

    So it can be recorded. A batch is read into the tensors, and any other of the same form after it. It has a
    session's layers, and shares nothing with one, but for the decoder's weights.

    What is written and remembered stands in a ring of places: a row that begins at one sees as many places behind the
    present one as it has come from there, and that is its position as well.
    """

    # Added to what attention says of a place of the text: 0, or minus infinity where it is never seen.
    allowed: Tensor

    @torch.inference_mode()
    def __init__(self, decoder: FusedDecoder, form: Form, picker: object, capture: Capture) -> None:
        """Room for batches of that form, whose tokens are picked as `picker` does; none is read in yet."""
        config, like = decoder.config, decoder.embeddings
        self.form, self.decoder = form, decoder
        self.rows, self.text_rows = form.rows, form.text_rows
        self.place, self.drawn_at, self.repeats, self.partners, self.begins = (
            torch.zeros(size, dtype=torch.int64, device=like.device) for size in (1, 1, form.rows, form.jobs, form.rows)
        )
        self.guidance = like.new_zeros(form.jobs, 1, 1, dtype=torch.float32)
        self.picker: Any = copy.copy(picker)
        for name, value in tensors_of(picker).items():
            setattr(self.picker, name, value.new_zeros(form.jobs, *value.shape[1:]))
        self.script = torch.zeros(form.places, form.jobs, config.num_codebooks, dtype=torch.int64, device=like.device)
        self.written = torch.zeros_like(self.script)
        self.table = torch.tensor(sinusoids(form.places, config.hidden_size)).to(like)
        self.order = torch.arange(form.places, device=like.device)
        self.nothing = like.new_zeros(1, 1, 1, 1)
        self.allowed = like.new_zeros(form.text_rows, 1, 1, form.words)
        self.caches = self._room(form.places)
        shape = 2, form.text_rows, config.num_attention_heads, form.words, config.head_dim
        self.text_caches = [like.new_zeros(shape) for _ in decoder.layers]
        shape = NOISE_POSITIONS, *self.script.shape[1:], config.vocab_size
        self.drawn = like.new_zeros(shape, dtype=torch.float32)
        self.bring = Ferry(self.drawn)
        self._capture, self._pool = capture, capture.pool()
        self._launches: dict[int, Work | None] = {}

    @torch.inference_mode()
    def read(self, session: Session) -> None:
        """Take in another batch, which must be of this form, before its first step."""
        self.noise, self.ahead = session.noise, session.ahead
        for name in ("repeats", "partners", "guidance"):
            getattr(self, name).copy_(getattr(session, name))
        for name, value in tensors_of(session.picker).items():
            getattr(self.picker, name).copy_(value)
        self.script[session.ahead :][: len(session.script)] = session.script
        self.begins.copy_(torch.tensor(session.missing))
        words = session.text_caches[0].shape[3]
        self.allowed.fill_(-torch.inf)
        self.allowed[..., :words] = 0 if session.allowed is None else added(session.allowed)
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
        turn = first % NOISE_POSITIONS
        count = min(most, NOISE_POSITIONS - turn, self.bucket(place) - place)
        if self._brought != first // NOISE_POSITIONS:
            self._brought = first // NOISE_POSITIONS
            self.bring(self.noise.block(first))
        self.written[place] = tokens
        self.launch(place, turn, count)
        return list(self.written[place + 1 : place + 1 + count])

    def bucket(self, place: int) -> int:
        """As many places as a step at `place` looks at, in a ring that has not gone round yet."""
        return min(_multiple(place + 1, BUCKET), self.form.places)

    def launch(self, place: int, turn: int, count: int, bucket: int | None = None) -> None:
        """`count` steps from tokens at `place` on, by the noise that was brought, from row `turn` on."""
        self.place.fill_(place)
        self.drawn_at.fill_(turn)
        launch = self._launch(self.bucket(place) if bucket is None else bucket)
        for _ in range(count):
            launch()

    def _launch(self, bucket: int) -> Work:
        """What takes a step that looks at `bucket` places; a graph where there can be one."""
        work = functools.partial(self._advance, bucket)
        if bucket not in self._launches:
            start = self.place.clone(), self.drawn_at.clone()
            self._launches[bucket] = self._capture(work, functools.partial(self._rehearse, bucket, start), self._pool)
        return self._launches[bucket] or work

    def _rehearse(self, bucket: int, start: tuple[Tensor, Tensor]) -> None:
        """A step that the next one takes again: it writes the same to the same places."""
        self._advance(bucket)
        self.place.copy_(start[0])
        self.drawn_at.copy_(start[1])

    def _advance(self, bucket: int) -> None:
        """One step, and on to the next place. Nothing in here looks at a value, or asks the device for one."""
        self._bucket = bucket
        self._ages = (self.place - self.begins) % self.form.places
        following = (self.place + 1) % self.form.places
        tokens = self.written.index_select(0, self.place)[0]
        with sdpa_kernel(_KERNELS):
            logits = self._guided(self._logits(self._embed(tokens, 0), 0, 1))
        noise = self.drawn.index_select(0, self.drawn_at)[0]
        wanted = self.script.index_select(0, following)[0]
        picked = torch.where(wanted < 0, self.picker(logits, noise), wanted)
        self.written.index_copy_(0, following, picked[None])
        self.place.copy_(following)
        self.drawn_at += 1

    # Where a session is told a position and a place, tensors say them.

    def _embed(self, tokens: Tensor, position: int) -> Tensor:
        places = tokens.index_select(0, self.repeats) + self.decoder.offsets
        summed = F.embedding(places, self.decoder.embeddings).sum(1)
        return summed + self.table.index_select(0, self._ages)

    def _allowed(self, place: int, count: int) -> Tensor:
        behind = (self.place - self.order[: self._bucket]) % self.form.places
        is_hidden = behind > self._ages[:, None]
        return self.nothing.masked_fill(is_hidden[:, None, None], -torch.inf)

    def _remembered(self, index: int, pair: Tensor, place: int) -> Tensor:
        self.caches[index].index_copy_(3, self.place, pair)
        return self.caches[index].narrow(3, 0, self._bucket)


def _multiple(count: int, unit: int) -> int:
    """The least multiple of `unit` that is no less."""
    return -(-count // unit) * unit


def tensors_of(picker: object) -> dict[str, Tensor]:
    """What a picker knows of each job, by name."""
    return {name: value for name, value in vars(picker).items() if isinstance(value, Tensor)}


def added(is_seen: Tensor) -> Tensor:
    """True and false -> 0 and minus infinity, to be added to what attention says."""
    return torch.zeros(is_seen.shape, device=is_seen.device).masked_fill(~is_seen, -torch.inf)
