"""Progress of a long job as one line on stderr, where stderr is a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console

from surelock.cli.terminal import bar, can_animate
from surelock.output import StepUpdate

if TYPE_CHECKING:
    from rich.status import Status

    from surelock.batch.progress import Progress

SECONDS_BETWEEN_UPDATES: Final = 0.1


class ProgressLine:
    """A bar with figures behind it, from the first time it is shown; nothing off a terminal."""

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

    def show(self, share: float, parts: Sequence[str]) -> None:
        """Show how much is done, 0 to 1, and the figures; not more often than an eye can follow, but always the end."""
        now = time.monotonic()
        if not can_animate(self._console) or (share < 1 and now - self._shown_at < SECONDS_BETWEEN_UPDATES):
            return
        self._shown_at = now
        line = bar(share).append(" · ".join(parts), "dim")
        if self._status is None:
            self._status = self._console.status(line)
            self._status.start()
        self._status.update(line)


class JobProgress(ProgressLine):
    """Prompts done, tokens a second, the mean locked share of `num_prompts` prompts and the time left."""

    def __init__(self, console: Console, num_prompts: int) -> None:
        super().__init__(console)
        self._num_prompts = num_prompts
        self._shares: dict[int, float] = {}
        self._locked: dict[int, float] = {}
        self._num_done = 0
        self._num_committed = 0
        self._started_at = time.monotonic()

    def update(self, update: StepUpdate) -> None:
        """Take in one step."""
        self._shares[update.index] = 1.0 if update.output else update.step / max(1, update.num_steps)
        self._locked[update.index] = sum(update.locked) / max(1, len(update.locked))
        self._num_done += update.output is not None
        self._num_committed += len(update.committed)
        seconds, share = time.monotonic() - self._started_at, sum(self._shares.values()) / self._num_prompts
        parts = [
            f"{self._num_done}/{self._num_prompts} prompts",
            f"{self._num_committed / max(1e-3, seconds):.0f} tokens/s",
            f"locked {sum(self._locked.values()) / len(self._locked):.0%}",
        ]
        self.show(share, parts + ([_time_left(seconds / share - seconds)] if share else []))


class BatchProgress(ProgressLine):
    """Rows done and failed, tokens a second, the FLOPs saved and the time left."""

    def update(self, progress: Progress) -> None:
        """Show where the job is; the first time only once the model is there, whose loading has a line of its own."""
        self.show(progress.totals.num_done / max(1, progress.num_rows), describe(progress))


def describe(progress: Progress) -> list[str]:
    """The figures of a batch job."""
    totals = progress.totals
    failed = [f"{totals.num_failed} failed"] if totals.num_failed else []
    left = [] if progress.seconds_left is None else [_time_left(progress.seconds_left)]
    rates = [f"{progress.tokens_per_second:.0f} tokens/s", f"{totals.saved:.0%} FLOPs saved"]
    return [f"{totals.num_done}/{progress.num_rows} rows", *failed, *rates, *left]


def _time_left(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left"
