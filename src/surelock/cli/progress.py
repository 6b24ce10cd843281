"""Progress of a long job as one line on stderr, where stderr is a terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from surelock.cli.canvas_view import LOCKED_STYLE
from surelock.output import StepUpdate


class JobProgress:
    """Prompts done, tokens a second and the mean locked share of `num_prompts` prompts; nothing off a terminal."""

    def __init__(self, console: Console, num_prompts: int) -> None:
        # Some versions of rich end even a disabled progress with a line break.
        self._is_shown = console.is_terminal
        self._num_prompts = num_prompts
        self._shares: dict[int, float] = {}
        self._locked: dict[int, float] = {}
        self._num_done = 0
        self._num_committed = 0
        self._started_at = time.monotonic()
        self._progress = Progress(
            BarColumn(bar_width=24, complete_style=LOCKED_STYLE, finished_style=LOCKED_STYLE),
            TextColumn("{task.fields[figures]}", style="dim"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not self._is_shown,
            redirect_stdout=False,
        )
        self._task = self._progress.add_task("", total=float(num_prompts), figures="")

    def __enter__(self) -> Self:
        self._started_at = time.monotonic()
        if self._is_shown:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_shown:
            self._progress.stop()

    def update(self, update: StepUpdate) -> None:
        """Take in one step."""
        self._shares[update.index] = 1.0 if update.output else update.step / max(1, update.num_steps)
        self._locked[update.index] = sum(update.locked) / max(1, len(update.locked))
        self._num_done += update.output is not None
        self._num_committed += len(update.committed)
        rate = self._num_committed / max(1e-3, time.monotonic() - self._started_at)
        locked = sum(self._locked.values()) / len(self._locked)
        figures = f"{self._num_done}/{self._num_prompts} prompts · {rate:.0f} tokens/s · locked {locked:.0%}"
        self._progress.update(self._task, completed=sum(self._shares.values()), figures=figures)
