"""What is left of a job, whole or in spans of neighbouring rows, and what a worker gives back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from surelock.batch.input import Scan, read_rows
from surelock.batch.journal import Journal
from surelock.batch.records import Record
from surelock.batch.row_formats import read_task
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


@dataclass(frozen=True, slots=True)
class Span:
    """Rows by number.

    Attributes:
        numbers: of the rows, ascending.
        start: `Row.start` of the first.
        twins: see `Scan.twins`; as pairs, because JSON has only strings as keys.
    """

    numbers: list[int]
    start: int
    twins: list[tuple[int, int]] = field(default_factory=list)

    def to_json(self) -> bytes:
        """As bytes that `from_json` reads."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, content: bytes) -> Span:
        """The span of these bytes."""
        return cls(**orjson.loads(content))

    def tasks(self, path: Path, defaults: Defaults) -> Iterator[Task | Failure]:
        """Its rows, read from the input file again."""
        wanted, twins = set(self.numbers), dict(self.twins)
        for row in read_rows(path, defaults.prompt_column, number=self.numbers[0], start=self.start):
            if row.number in wanted:
                yield read_task(row, defaults, twin=twins.get(row.number))
            if row.number >= self.numbers[-1]:
                return


def spans_of(work: Work, num_rows: int) -> Iterator[Span]:
    """What is left of a job in spans of num_rows rows."""
    twins, left = work.scan.twins, work.numbers()
    while numbers := list(islice(left, num_rows)):
        pairs = [(number, twins[number]) for number in numbers if number in twins]
        yield Span(numbers, work.scan.starts[numbers[0] - 1], pairs)
