"""Progress of a batch job as one line on stderr, where stderr is a terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.text import Text

from surelock.cli.terminal import can_animate

if TYPE_CHECKING:
    from rich.status import Status

    from surelock.batch.progress import Progress

SECONDS_BETWEEN_UPDATES: Final = 0.1


class BatchProgress:
    """Rows done and failed, tokens a second and the time left; nothing off a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def update(self, progress: Progress) -> None:
        """Show where the job is; the first time only once the model is there, whose loading has a line of its own."""
        now = time.monotonic()
        if not can_animate(self._console) or now - self._shown_at < SECONDS_BETWEEN_UPDATES:
            return
        self._shown_at = now
        line = Text(describe(progress), style="dim")
        if self._status is None:
            self._status = self._console.status(line)
            self._status.start()
        self._status.update(line)


def describe(progress: Progress) -> str:
    """The line."""
    totals = progress.totals
    parts = [f"{totals.num_done}/{progress.num_rows} rows"]
    if totals.num_failed:
        parts.append(f"{totals.num_failed} failed")
    parts += [f"{progress.tokens_per_second:.0f} tokens/s", f"{totals.saved:.0%} FLOPs saved"]
    if progress.seconds_left is not None:
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(f"{hours}:{minutes:02}:{seconds:02} left")
    return " · ".join(parts)
