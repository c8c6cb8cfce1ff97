"""Signals that ask a run to leave: SIGTERM from a launcher or a person, SIGUSR1 from SLURM before time is up."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch

from hemiola.train import ranks

NUMBERS = (signal.SIGTERM, signal.SIGUSR1)


class Signals:
    """Notes a signal instead of dying from it; a run looks between two steps whether any of its processes got one.

    Once: the second signal kills, as it must where a process waits for another that is gone.
    """

    def __init__(self) -> None:
        self.heard = 0

    def listen(self) -> None:
        """Note signals from now on. Only a main thread may; elsewhere signals do what they always do."""
        _handle(self._note)

    def ignore(self) -> None:
        """Die from signals again; Lightning gives them back to whoever had them before it.

        Its own handler would talk to the other processes, and wait forever for one that is gone.
        """
        _handle(signal.SIG_DFL)

    def agreed(self, device: torch.device) -> int:
        """The signal that any rank has heard (0 for none), the same on every rank; every rank has to ask."""
        if ranks.world() > 1:
            self.heard = int(ranks.gather(torch.tensor([self.heard], device=device)).max())
        return self.heard

    def _note(self, number: int, _: FrameType | None) -> None:
        self.heard = number
        self.ignore()


def _handle(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in NUMBERS:
            signal.signal(number, handler)
