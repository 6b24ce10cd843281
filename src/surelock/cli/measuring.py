"""What commands that measure share: options, lists of numbers, facts about the run, tables."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from rich.box import SIMPLE
from rich.table import Table

from surelock.cli.loading import load_llm
from surelock.cli.options import ModelOptions, option
from surelock.cli.terminal import note, standard_output
from surelock.config import EngineConfig
from surelock.errors import ParameterError
from surelock.measure.rules import DEFAULT_RULES

if TYPE_CHECKING:
    from surelock.llm import LLM

# Wide enough for every table, where the width of a terminal is not known.
_PIPE_WIDTH: Final = 240

Rules = Annotated[
    list[str] | None,
    option(
        "none, default or paper, with a KL threshold as in paper@5e-3; may be given several times. No lock is always "
        "measured.",
        "Measurement",
        "--rule",
        metavar="RULE",
        default=", ".join(DEFAULT_RULES),
    ),
]
ResultFolder = Annotated[Path | None, option("Folder for the CSV, JSON and Markdown files and the texts.", "Output")]


def load_measured(model: ModelOptions) -> LLM:
    """The model, set up to decode as many requests together as memory holds: only their results count.

    Raises:
        See `load_llm`.
    """
    import torch

    is_on_gpu = torch.cuda.is_available() if model.device is None else model.device.startswith("cuda")
    # A step of a small model costs a GPU more to launch than to compute; what memory does not hold waits.
    return load_llm(model, EngineConfig(max_batch_size=512, max_rows=1 << 17) if is_on_gpu else None)


def parse_numbers(name: str, text: str) -> list[int]:
    """Positive integers with commas between them.

    Raises:
        ParameterError: the text is something else; the message names the option.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= 7 and int(part) for part in parts):
        raise ParameterError(f"{name} is {text!r:.60}; write positive integers with commas between them")
    return [int(part) for part in parts]


def command_line() -> str:
    """The command being run, to be repeated."""
    return shlex.join(["surelock", *sys.argv[1:]])


def run_facts(llm: LLM) -> dict[str, Any]:
    """The command, the machine and the model, as every result file has them."""
    from surelock.results.environment import environment

    return {
        "command": command_line(),
        "environment": environment(),
        "model": llm.name,
        "commit": llm.commit,
        "dtype": str(llm.dtype).removeprefix("torch."),
    }


def note_written(paths: Iterable[Path]) -> None:
    """Say on stderr which files there are now."""
    for path in paths:
        note(f"wrote {path}")


def shown(name: str, value: Any) -> str:
    """A value of a table or a fact, whatever its name: three significant digits, a dash for none."""
    from surelock.results.tables import shown_cell

    return f"{value:,}" if isinstance(value, int) else shown_cell(value) or "-"


def print_table(rows: Sequence[Mapping[str, Any]], form: Callable[[str, Any], str] = shown) -> None:
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
