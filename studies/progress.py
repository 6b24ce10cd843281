"""How far a study is: share, count and time left, as one line on a terminal and a line now and then elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.status import Status

# Seconds between two lines where there is no terminal.
QUIET_FOR = 30.0


class Progress:
    """Of one study after the other; cells are weighted by how long they take.

    console: to show it on; None says nothing.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        is_live = console is not None and console.is_terminal and not console.is_dumb_terminal
        self._status = Status("", console=console) if is_live else None
        self._told_at = -QUIET_FOR
        self.start("", 0, 0.0)

    @classmethod
    def of_process(cls) -> Progress:
        """On stderr."""
        return cls(Console(file=sys.stderr, highlight=False, markup=False, soft_wrap=True))

    def start(self, name: str, num: int, total: float) -> None:
        """A study of so many cells begins."""
        self._name, self._num, self._total = name, num, max(total, 1e-9)
        self._num_done, self._done, self._inside, self._known = 0, 0.0, 0.0, 0.0
        self._started = time.monotonic()
        if self._status is not None and num:
            self._status.start()

    def within(self, what: str, share: float, weight: float) -> None:
        """A share of the cell that is being measured is done."""
        self._inside = share * weight
        if self._status is not None:
            self._status.update(f"{self._name}: {self.figures} · {what}")
        elif self._console is not None and time.monotonic() - self._told_at >= QUIET_FOR:
            self._told_at = time.monotonic()
            self._console.print(f"{self._name}: {self.figures} · {what}")

    def finished(self, weight: float, *, is_new: bool = True) -> None:
        """A cell is done, now or in an earlier run."""
        self._num_done += 1
        self._done += weight
        self._inside = 0.0
        self._known += 0.0 if is_new else weight

    def stop(self) -> None:
        """The line goes."""
        if self._status is not None:
            self._status.stop()

    @property
    def figures(self) -> str:
        """Count, share and time left."""
        share = min(1.0, (self._done + self._inside) / self._total)
        measured = self._done + self._inside - self._known
        left = "time left unknown"
        if measured > 0:
            minutes = (time.monotonic() - self._started) * self._total * (1 - share) / measured / 60
            left = f"{minutes / 60:.1f} h left" if minutes >= 90 else f"{minutes:.0f} min left"
        return f"{self._num_done} of {self._num} · {share:.0%} · {left}"
