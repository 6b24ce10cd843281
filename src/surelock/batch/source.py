"""Which reader reads an input file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from surelock.batch.csv_rows import read_csv
from surelock.batch.json_lines import read_json_lines
from surelock.batch.parquet_rows import read_parquet
from surelock.batch.row import Row
from surelock.errors import ParameterError, PromptError

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
