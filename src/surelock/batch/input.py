"""An input file: which reader reads it, how many rows it has, and which names in it are used twice."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from surelock.batch.csv_rows import csv_columns, read_csv
from surelock.batch.json_lines import read_json_lines
from surelock.batch.parquet_rows import has_openai_rows, parquet_columns, read_parquet
from surelock.batch.row_formats import check_names, columns_of, contents_of, is_openai_row
from surelock.batch.task import Row, check_name, digest_of
from surelock.errors import JobError, ParameterError, PromptError, shown, shown_error

KINDS: Final = (".jsonl", ".csv", ".parquet")
MAX_ROWS: Final = 50_000_000
# Of a table that is made of JSON lines, whose keys may be anything.
MAX_COLUMNS: Final = 1000


def check_source(path: Path, prompt_column: str = "prompt") -> None:
    """Refuse what is not a file of a known kind, and a table without a prompt or with a misspelt parameter.

    Raises:
        ParameterError: naming `--input`, `--prompt-column` or the column.
        PromptError: the file as a whole cannot be read.
    """
    if path.suffix not in KINDS:
        raise ParameterError(f"--input {path} ends with none of {', '.join(KINDS)}; rename or convert it")
    with _reading(path):
        if not path.is_file():
            problem = "is not a regular file, which a job needs to resume" if path.exists() else "does not exist"
            raise ParameterError(f"--input {path} {problem}; check the path")
        if path.suffix == ".jsonl":
            return
        columns = columns_in(path)
        check_names(columns, prompt_column, path.name)
        has_content = not set(columns).isdisjoint(contents_of(prompt_column))
        if prompt_column in columns or (prompt_column == "prompt" and has_content):
            return
        if path.suffix == ".csv" or not has_openai_rows(path):
            names = ", ".join(name if name.isprintable() else shown(name) for name in columns[:20])
            more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
            raise ParameterError(
                f"{path.name} has columns {names:.300}{more} and no {shown(prompt_column)}: pass --prompt-column"
            )


def columns_in(path: Path) -> list[str]:
    """The header of a table; PromptError if it cannot be read."""
    return csv_columns(path) if path.suffix == ".csv" else parquet_columns(path)


def read_rows(path: Path, prompt_column: str = "prompt", *, number: int = 1, start: int = 0) -> Iterator[Row]:
    """Rows in the order of the file, one at a time; a row that cannot be read has a `fault`.

    Args:
        number, start: of the row to begin with (`Row.start`).

    Raises:
        PromptError: the file as a whole cannot be read.
    """
    with _reading(path):
        if path.suffix == ".parquet":
            yield from read_parquet(path, number, start, columns_of(prompt_column))
        else:
            yield from (read_csv if path.suffix == ".csv" else read_json_lines)(path, number, start)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PromptError(f"--input {path} cannot be read: {error.strerror or shown_error(error)}") from None


@dataclass(frozen=True, slots=True)
class Scan:
    """What a pass over the whole file found; 16 bytes for each row.

    Attributes:
        sha256: of the file, in hex.
        digests, starts: of each row.
        twins: {row number: the first row that has the same custom_id}, by 64 bits of a hash.
        columns: of a table, or keys of plain JSON lines; of these a few more than `MAX_COLUMNS` at most.
    """

    path: Path
    prompt_column: str
    sha256: str
    digests: array[int] = field(default_factory=lambda: array("Q"))
    starts: array[int] = field(default_factory=lambda: array("Q"))
    twins: dict[int, int] = field(default_factory=dict)
    columns: dict[str, None] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Rows of the file, unreadable ones included."""
        return len(self.digests)

    def rows(self, *, number: int = 1) -> Iterator[Row]:
        """The rows again, from `number` on; JobError if the file is no longer the one that was scanned."""
        if number > self.num_rows:
            return
        for row in read_rows(self.path, self.prompt_column, number=number, start=self.starts[number - 1]):
            self.check_same(row.number, row.digest)
            yield row
            number = row.number + 1
            if number > self.num_rows:
                return
        if number <= self.num_rows:
            raise self._changed(f"was cut to {number - 1} rows")

    def check_unchanged(self) -> None:
        """Raise JobError if the file is not the one that was scanned, in any byte."""
        if _sha256(self.path) != self.sha256:
            raise self._changed("changed")

    def check_same(self, number: int, digest: int) -> None:
        """Raise JobError if a row is not the one that was scanned."""
        if number > self.num_rows or digest != self.digests[number - 1]:
            raise self._changed(f"changed at row {number}")

    def _changed(self, how: str) -> JobError:
        return JobError(f"--input {self.path} {how} while the job ran; restore it and run the same command again")


def scan(path: Path, prompt_column: str = "prompt") -> Scan:
    """Read the file from end to end; PromptError if it cannot be read, or holds no row or too many."""
    found = Scan(path, prompt_column, _sha256(path))
    is_table = path.suffix != ".jsonl"
    if is_table:
        with _reading(path):
            found.columns.update(dict.fromkeys(columns_in(path)))
    names = array("Q")
    for row in read_rows(path, prompt_column):
        if row.number > MAX_ROWS:
            raise PromptError(f"--input {path} holds more than {MAX_ROWS} rows; split it")
        found.digests.append(row.digest)
        found.starts.append(row.start)
        names.append(_name_digest(row))
        if not is_table and len(found.columns) <= MAX_COLUMNS and not is_openai_row(row.values, prompt_column):
            found.columns.update(dict.fromkeys(row.values))
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
    with _reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
