"""What commands that measure share: lists of numbers, a line on what is being done, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.box import SIMPLE
from rich.table import Table

from surelock.cli.terminal import can_animate, standard_error, standard_output
from surelock.config import EngineConfig
from surelock.errors import ParameterError

Show = Callable[[str], None]

# Wide enough for every table, where the width of a terminal is not known.
_PIPE_WIDTH: Final = 240


def measuring_engine(device: str | None) -> EngineConfig | None:
    """How many requests to decode together where only the results count; None: as many as the library chooses."""
    import torch

    is_on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    # A step of a small model costs a GPU more to launch than to compute; what memory does not hold waits.
    return EngineConfig(max_batch_size=512, max_rows=1 << 17) if is_on_gpu else None


def parse_numbers(option: str, text: str) -> list[int]:
    """Positive integers with commas between them.

    Raises:
        ParameterError: the text is something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= 7 and int(part) for part in parts):
        raise ParameterError(f"{option} is {text!r:.60}; write positive integers with commas between them")
    return [int(part) for part in parts]


@contextmanager
def measuring_status() -> Iterator[Show]:
    """A function that shows what is being measured, on a terminal."""
    console = standard_error()
    if not can_animate(console):
        yield lambda message: None
        return
    with console.status("starting") as status:
        yield status.update


def print_table(rows: Sequence[Mapping[str, Any]], form: Callable[[str, Any], str]) -> None:
    """Rows with the same keys on stdout, each value as `form(key, value)` writes it."""
    console = standard_output()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    table = Table(box=SIMPLE, pad_edge=False)
    for name, value in rows[0].items():
        table.add_column(name.replace("_", " "), justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(form(name, value) for name, value in row.items()))
    console.print(table)
