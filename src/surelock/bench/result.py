"""What every measurement gives back, and the files it is written to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surelock.results.environment import environment
from surelock.results.figures import check_plots
from surelock.results.result_folder import check_folder
from surelock.results.tables import write_results

Row = dict[str, Any]
# Called with one line about what is being measured.
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One benchmark.

    Attributes:
        benchmark: its name: latency, throughput, steps or ops.
        method: how the numbers were taken, in one sentence or two.
        facts: model, weights, locks, limits of the machine.
        rows: flat, all with the same keys; the CSV file and the table.
        details: of the rows, by a name: curves and the like, in the JSON file only.
    """

    benchmark: str
    method: str
    facts: dict[str, Any]
    rows: list[Row]
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self, command: str) -> dict[str, Any]:
        """The object of the JSON file, with the command it was made by and the machine."""
        return {
            "benchmark": self.benchmark,
            "command": command,
            "environment": environment(),
            "method": self.method,
            **self.facts,
            "rows": self.rows,
            "details": self.details,
        }


def check_output(folder: Path, *, plots: bool) -> None:
    """Make the folder, before anything is measured.

    Raises:
        ParameterError: it cannot be written, or plots are wanted and matplotlib is missing.
    """
    if plots:
        check_plots()
    check_folder(folder)


def write_result(folder: Path, result: BenchResult, content: dict[str, Any], *, plots: bool) -> list[Path]:
    """Write NAME.csv, NAME.json and, with plots, NAME.png and NAME.svg; returns their paths."""
    figure = None
    if plots:
        from surelock.bench.plot import draw

        figure = draw(result)
    return write_results(folder, result.benchmark, rows=result.rows, facts=content, figure=figure)


def no_progress(message: str) -> None:
    """Say nothing."""
