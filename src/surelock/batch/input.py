"""An input file: which reader reads it, how many rows it has, and which names in it are used twice."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from surelock.batch.csv_rows import read_csv
from surelock.batch.json_lines import read_json_lines
from surelock.batch.parquet_rows import read_parquet
from surelock.batch.task import Row, check_name, digest_of
from surelock.errors import JobError, ParameterError, PromptError

READERS = {".jsonl": read_json_lines, ".csv": read_csv, ".parquet": read_parquet}


def check_source(path: Path) -> None:
    """Refuse what is not a file of a known kind.

    Raises:
        ParameterError: naming `--input`.
    """
    if path.suffix not in READERS:
        raise ParameterError(f"--input {path} ends with none of {', '.join(READERS)}; rename or convert it")
    if not path.is_file():
        problem = "is not a regular file, which a job needs to resume" if path.exists() else "does not exist"
        raise ParameterError(f"--input {path} {problem}; check the path")


def read_rows(path: Path, *, number: int = 1, start: int = 0) -> Iterator[Row]:
    """Rows in the order of the file, one at a time; a row that cannot be read has a `fault`.

    Args:
        number, start: of the row to begin with (`Row.start`).

    Raises:
        PromptError: the file as a whole cannot be read.
    """
    try:
        yield from READERS[path.suffix](path, number, start)
    except OSError as error:
        raise PromptError(f"--input {path} cannot be read: {error.strerror or error}") from None


@dataclass(frozen=True, slots=True)
class Scan:
    """What a pass over the whole file found; 16 bytes for each row.

    Attributes:
        sha256: of the file, in hex.
        digests, starts: of each row.
        twins: {row number: the first row that has the same custom_id}, by 64 bits of a hash.
    """

    path: Path
    sha256: str
    digests: array[int] = field(default_factory=lambda: array("Q"))
    starts: array[int] = field(default_factory=lambda: array("Q"))
    twins: dict[int, int] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Rows of the file, unreadable ones included."""
        return len(self.digests)

    def rows(self, *, number: int = 1) -> Iterator[Row]:
        """The rows again, from `number` on.

        Raises:
            JobError: the file is no longer the one that was scanned.
        """
        if number > self.num_rows:
            return
        for row in read_rows(self.path, number=number, start=self.starts[number - 1]):
            self.check_same(row.number, row.digest)
            yield row
            number = row.number + 1
            if number > self.num_rows:
                return
        if number <= self.num_rows:
            raise JobError(
                f"--input {self.path} was cut to {number - 1} rows while the job ran; restore it and run the same "
                "command again"
            )

    def check_same(self, number: int, digest: int) -> None:
        """Raise JobError if a row is not the one that was scanned."""
        if number > self.num_rows or digest != self.digests[number - 1]:
            raise JobError(
                f"--input {self.path} changed at row {number} while the job ran; restore it and run the same command "
                "again"
            )


def scan(path: Path) -> Scan:
    """Read the file from end to end.

    Raises:
        PromptError: it cannot be read, or holds no row.
    """
    found = Scan(path, _sha256(path))
    names = array("Q")
    for row in read_rows(path):
        found.digests.append(row.digest)
        found.starts.append(row.start)
        names.append(_name_digest(row))
    if not found.num_rows:
        raise PromptError(f"--input {path} holds no row; write one JSON object per line")
    _find_twins(found, names)
    return found


def _name_digest(row: Row) -> int:
    """64 bits of a hash of the row's custom_id; 0 if it has none that counts."""
    try:
        name = check_name(row.values)
    except ParameterError:
        return 0
    return 0 if name is None else digest_of(name.encode())


def _find_twins(found: Scan, names: array[int]) -> None:
    ordered = np.sort(np.frombuffer(names, np.uint64))
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist()) - {0}
    first: dict[int, int] = {}
    if repeated:
        for number, name in enumerate(names, start=1):
            if name in repeated and (earlier := first.setdefault(name, number)) != number:
                found.twins[number] = earlier


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PromptError(f"--input {path} cannot be read: {error.strerror}") from None
