"""What every measurement gives back: facts, and rows of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from surelock.results.environment import environment

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


def no_progress(message: str) -> None:
    """Say nothing."""
