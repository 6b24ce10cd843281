"""Neighbouring rows that one actor decodes at a time, and what it needs to find them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import orjson

from surelock.batch.read_task import read_task
from surelock.batch.source import read_rows
from surelock.batch.task import Defaults, Failure, Task
from surelock.batch.work import Work


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
        for row in read_rows(path, number=self.numbers[0], start=self.start):
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
