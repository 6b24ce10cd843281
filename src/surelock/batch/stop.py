"""How a job is asked to stop: the first signal ends it in order, the second one at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether SIGTERM or SIGINT has come. Handlers are installed for the time of `listening`."""

    def __init__(self) -> None:
        self.is_asked = False
        self._interrupts = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take in signals instead of ending; only in the main thread."""
        before = {number: signal.signal(number, self._take_in) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise KeyboardInterrupt at a signal, where something is waited for and nothing is half written."""
        if self.is_asked:
            raise KeyboardInterrupt
        self._interrupts = True
        try:
            yield
        finally:
            self._interrupts = False

    def _take_in(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        # The next one finds the system's own handler, which ends the process.
        for other in SIGNALS:
            signal.signal(other, signal.SIG_DFL)
        if self._interrupts:
            raise KeyboardInterrupt
