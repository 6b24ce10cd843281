"""Rows of a .csv file with a header (RFC 4180: commas, double quotes, line breaks inside quotes)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from surelock.batch.task import MAX_ROW_BYTES, Row, digest_of
from surelock.errors import PromptError, shown, shown_error
from surelock.params import SamplingParams

# Parameters whose cells are JSON, such as 64, true or {"kl_threshold": 0.001}; all other cells are text.
_JSON_PARAMETERS: Final = frozenset(field.name for field in fields(SamplingParams)) - {"unmasking", "stop"}


class _Lines:
    """The lines of a file as text, and where the next one begins.

    PromptError if those since `mark` together are longer than a row may be.
    """

    def __init__(self, file: BinaryIO, path: Path, start: int = 0) -> None:
        self._file, self._path = file, path
        self._file.seek(start)
        self.start = self.mark = start

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        self.start += len(line)
        if self.start - self.mark > MAX_ROW_BYTES:
            raise PromptError(
                f"--input {self._path}: the row that begins at byte {self.mark} has more than {MAX_ROW_BYTES} bytes; "
                "close its quotes or shorten it"
            )
        # A byte that is not UTF-8 becomes a lone surrogate, and the fault of its row.
        return line.decode("utf-8", "surrogateescape")


def csv_columns(path: Path) -> list[str]:
    """The header; PromptError if there is none."""
    with path.open("rb") as file:
        return _header(_Lines(file, path), path)


def read_csv(path: Path, number: int, start: int) -> Iterator[Row]:
    """Rows from byte `start` on, where row `number` begins; 0 is the beginning of the file, header included."""
    # Python's own limit of 131,072 characters is below what a long canvas takes. The row bounds a cell.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    with path.open("rb") as file:
        lines = _Lines(file, path)
        header = _header(lines, path)
        lines = _Lines(file, path, start or lines.start)
        reader = csv.reader(lines, strict=True)
        while True:
            begin = lines.mark = lines.start
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # Where the next row begins can only be guessed, and a wrong guess makes rows of what is inside quotes.
                raise PromptError(
                    f"--input {path} is not CSV from row {number} on, which begins at byte {begin} "
                    f"({shown_error(error)}): quote a cell that holds quotes or line breaks, and write its quotes twice"
                ) from None
            if cells:
                yield _row(cells, header, number, begin)
                number += 1


def _header(lines: _Lines, path: Path) -> list[str]:
    try:
        header = next(csv.reader(lines, strict=True), [])
    except csv.Error as error:
        raise PromptError(f"--input {path} has no header that is CSV: {shown_error(error)}") from None
    if header:
        header[0] = header[0].removeprefix("\ufeff")
    for name in header:
        if not _is_utf8(name):
            raise PromptError(
                f"--input {path} is not UTF-8, its column {shown(name)} for one; convert it, for example with iconv"
            )
    if len(set(header)) != len(header):
        raise PromptError(f"--input {path} has two columns of the same name; rename one")
    return header


def _row(cells: list[str], header: list[str], number: int, start: int) -> Row:
    digest = digest_of("\x1f".join(cells).encode("utf-8", "surrogateescape"))
    if len(cells) != len(header):
        fault = f"it has {len(cells)} cells; the header has {len(header)}"
        return Row(number, digest, start, {}, fault)
    try:
        return Row(number, digest, start, _values(cells, header))
    except ValueError as error:
        return Row(number, digest, start, {}, str(error))


def _values(cells: list[str], header: list[str]) -> dict[str, Any]:
    """Cells by column; an empty one is not given. ValueError says what is wrong with a cell."""
    return {name: _value(name, cell) for name, cell in zip(header, cells, strict=True) if cell}


def _value(name: str, cell: str) -> object:
    if not _is_utf8(cell):
        raise ValueError(f"{shown(name)} is not UTF-8; convert the file, for example with iconv")
    # A stop string is itself; several are a JSON list.
    if name in _JSON_PARAMETERS or (name == "stop" and cell.startswith("[")):
        try:
            return orjson.loads(cell)
        except orjson.JSONDecodeError:
            raise ValueError(f"{name} is {cell[:60]!r}; it must be JSON, such as 64, 0.5, true or null") from None
    return cell


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
