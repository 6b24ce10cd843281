"""What is left of a job, and what whoever does it gives back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from surelock.batch.journal import Journal
from surelock.batch.read_task import read_task
from surelock.batch.records import Record
from surelock.batch.scan import Scan
from surelock.batch.task import Defaults, Failure, Task


@dataclass(frozen=True, slots=True)
class Work:
    """The rows of a job that have no record yet."""

    scan: Scan
    journal: Journal
    defaults: Defaults

    def numbers(self) -> Iterator[int]:
        """Of these rows, in order."""
        return (number for number in range(1, self.scan.num_rows + 1) if number not in self.journal)

    def tasks(self) -> Iterator[Task | Failure]:
        """These rows, in order, each read when it is asked for. Raises JobError if the input has changed."""
        first = next(self.numbers(), None)
        if first is not None:
            for row in self.scan.rows(number=first):
                if row.number not in self.journal:
                    yield read_task(row, self.defaults, twin=self.scan.twins.get(row.number))


@dataclass(frozen=True, slots=True)
class Done:
    """Some records, and the model they come from as `describe_model` describes it."""

    model: dict[str, Any]
    records: list[Record]


# Does work, some of it each time it is asked for more. Closing the iterator drops what is not done.
Worker = Callable[[Work], Generator[Done, None, None]]
