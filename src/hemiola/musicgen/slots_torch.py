"""Slots on a GPU: pieces decoded side by side, each from its own step on; where one ends, another begins."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hemiola.musicgen import decode
from hemiola.musicgen.batch import NOISE_POSITIONS, Batch, Job, Noise
from hemiola.musicgen.fused_torch import FusedDecoder
from hemiola.musicgen.sampling_torch import Picker
from hemiola.musicgen.session_torch import Session
from hemiola.musicgen.static_torch import Form, StaticStep, added, tensors_of

States = Callable[[str | None], Tensor | None]  # from a text to its states [L, text_width]


class Opening(Session):
    """A session that reads what is known of its jobs and takes the step after that, but has no room for others."""

    @torch.inference_mode()
    def __init__(self, decoder: FusedDecoder, batch: Batch, states: Sequence[Tensor | None]) -> None:
        self._known = batch.known
        super().__init__(decoder, batch, states)

    def _room(self, places: int) -> list[Tensor]:
        return super()._room(self.ahead + self._known)


@dataclass(frozen=True, eq=False)
class Occupant:
    """What is in a slot: a batch of one job, its noise, and the place at which its position 0 stands.

    It is written from position `first` on, and begins to see `ahead` places before position 0. Places are counted on,
    however often the ring has gone round; those before 0 lie at its end.
    """

    batch: Batch
    noise: Noise
    start: int
    first: int
    ahead: int

    @property
    def end(self) -> int:
        """The place that is written last."""
        return self.start + self.batch.steps


class Lender(Protocol):
    """What static steps are lent by: an engine."""

    decoder: FusedDecoder
    device: torch.device

    def lend(self, form: Form, picker: object) -> StaticStep:
        """A static step of that form, for one user alone until it is taken back."""

    def take_back(self, static: StaticStep) -> None:
        """Keep it for the next."""


class Slots:
    """So many pieces side by side in one static step; `queue.by_slots` says which, and when.

    All slots write at the same place of the step's ring, each at a position of its own. One that is empty goes on
    writing what nobody reads.
    """

    @torch.inference_mode()
    def __init__(self, engine: Lender, count: int, jobs: Sequence[Job], states: States, words: int) -> None:
        """`jobs` are all that will come, by number, with texts of up to `words` tokens; `states` reads those.

        What goes on after one differs in prompt, start and melody alone, and is no longer.
        """
        config = engine.decoder.config
        self._engine, self._states, self._pattern = engine, states, config.pattern
        self._picker = Picker([job.sampling for job in jobs], config.vocab_size, engine.device)
        ahead = 0 if config.melody is None else config.melody.chroma_length + max(1, words)
        places = ahead + 1 + self._pattern.steps(max(job.frames for job in jobs))
        rows = count * (2 if any(job.is_guided for job in jobs) else 1)
        reading = 0 if config.melody or not words else rows if any(job.negative for job in jobs) else count
        form = Form.roomy(rows, count, reading, words, places, self._picker)
        self._static, self._ring = engine.lend(form, self._picker), form.places
        # Of what an earlier batch left, nothing may be read; and an empty slot's numbers are to be numbers.
        for each in (*self._static.caches, *self._static.text_caches, self._static.written, self._static.begins):
            each.zero_()
        self._static.allowed.zero_()
        self._static.script.zero_()
        self._static.repeats.copy_(torch.arange(rows) % count)
        self._static.partners.copy_(torch.arange(count))
        self._held: dict[int, Occupant] = {}
        self._place = 0
        self._drawn = np.zeros(self._static.drawn.shape, np.float32)
        self._threads = ThreadPoolExecutor(min(count, os.cpu_count() or 1))

    @torch.inference_mode()
    def admit(self, slot: int, number: int, job: Job) -> int:
        """Begin in an empty slot to write a job, the one of that number or what goes on after it -> steps taken."""
        static, batch = self._static, Batch((job,), self._pattern)
        opening = Opening(self._engine.decoder, batch, [self._states(text) for text in batch.texts])
        tokens, first = opening.script[0], 0
        if opening.ahead or batch.known > 1:
            first = batch.known
            (tokens,) = opening.steps(np.moveaxis(batch.script[:first], 0, -1), 0, 1)
        remembered = opening.ahead + first if first else 0
        rows = [slot, len(static.partners) + slot][: opening.rows]
        for own, row in enumerate(rows):
            static.begins[row] = (self._place - remembered + opening.missing[own]) % self._ring
            self._remember(row, [each[:, own, :, :remembered] for each in opening.caches])
            if row < static.text_rows:
                self._read(row, own, opening)
        static.partners[slot] = rows[-1]
        static.guidance[slot] = opening.guidance[0]
        for name, value in tensors_of(self._picker).items():
            getattr(static.picker, name)[slot] = value[number]
        static.script[self._places(self._place, batch.steps + 1 - first), slot] = opening.script[first:, 0]
        static.written[self._place % self._ring, slot] = tokens.reshape(-1)
        self._held[slot] = Occupant(batch, Noise(batch), self._place - first, first, opening.ahead)
        return min(first, 1)

    def _places(self, first: int, count: int) -> Tensor:
        """Where in the ring so many places lie."""
        return torch.arange(first, first + count, device=self._engine.device) % self._ring

    def _remember(self, row: int, pairs: Sequence[Tensor]) -> None:
        """Lay each layer's keys and values [2, heads, n, head_dim] behind the present place."""
        count = pairs[0].shape[2]
        places = self._places(self._place - count, count)
        for cache, pair in zip(self._static.caches, pairs):
            cache[:, row].index_copy_(2, places, pair)

    def _read(self, row: int, own: int, opening: Session) -> None:
        """Take in the text of a session's row `own`, or that there is none: a key and a value of zeros."""
        has_text = own < opening.text_rows
        words = opening.text_caches[0].shape[3] if has_text else 1
        allowed = opening.allowed[own] if has_text and opening.allowed is not None else None
        self._static.allowed[row] = -torch.inf
        self._static.allowed[row, ..., :words] = 0 if allowed is None else added(allowed)
        for cache, theirs in zip(self._static.text_caches, opening.text_caches):
            cache[:, row] = 0
            cache[:, row, :, :words] = theirs[:, own] if has_text else 0

    @torch.inference_mode()
    def advance(self) -> tuple[int, list[int]]:
        """Launch steps until a slot is through or noise is used up -> how many, and the slots that are through."""
        held, ring, place = self._held.values(), self._ring, self._place
        count, bucket = min(NOISE_POSITIONS, min(each.end for each in held) - place), ring
        if place < ring and all(each.start >= each.ahead for each in held):
            bucket = self._static.bucket(place)
            count = min(count, bucket - place)
        list(self._threads.map(lambda slot: self._draw(slot, count), self._held))
        self._static.bring(self._drawn[:count])
        self._static.launch(place % ring, 0, count, bucket)
        self._place += count
        return count, [slot for slot, each in self._held.items() if each.end == self._place]

    def _draw(self, slot: int, count: int) -> None:
        """Work out the noise of a slot for so many steps."""
        held = self._held[slot]
        position = self._place - held.start
        for index in range(count):
            self._drawn[index, slot] = held.noise(position + 1 + index)[0]

    @torch.inference_mode()
    def take(self, slot: int) -> np.ndarray:
        """Wait for the codes of a job that is through, int32 [K, frames]; its slot is empty then.

        Raises WeightsError when the model's output was not a number.
        """
        held = self._held.pop(slot)
        places = self._places(held.start + held.first, held.batch.steps + 1 - held.first)
        written = self._static.written.index_select(0, places)[:, slot].cpu().numpy()
        whole = np.concatenate([held.batch.script[: held.first, 0], written])
        codes = self._pattern.undo(whole.T.astype(np.int32))
        decode.require_codes(held.batch, codes[None])
        return codes

    def close(self) -> None:
        """Give back what was lent."""
        self._threads.shutdown()
        self._engine.take_back(self._static)
