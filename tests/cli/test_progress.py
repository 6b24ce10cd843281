from __future__ import annotations

import io

from rich.console import Console

from surelock.batch.progress import Progress, Totals
from surelock.cli.progress import BatchProgress, describe

BEFORE = Totals(num_done=10, num_failed=1, num_tokens=100, flops_locked=1.0, flops_base=4.0)
NOW = Totals(num_done=30, num_failed=2, num_tokens=500, flops_locked=2.0, flops_base=4.0)


def progress(totals: Totals = NOW) -> Progress:
    return Progress(totals=totals, before=BEFORE, num_rows=4030, seconds=20.0, num_bytes_dropped=0)


def test_pace_and_time_left_are_those_of_this_run() -> None:
    assert describe(progress()) == ["30/4030 rows", "2 failed", "20 tokens/s", "50% FLOPs saved", "1:06:40 left"]
    assert describe(progress(BEFORE)) == ["10/4030 rows", "1 failed", "0 tokens/s", "75% FLOPs saved"]


def shown(*, is_terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=120, _environ={"TERM": "xterm"})
    with BatchProgress(console) as bar:
        bar.update(progress())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_only_a_terminal_sees_it() -> None:
    assert "30/4030 rows" in shown(is_terminal=True)
    assert shown(is_terminal=False) == ""
