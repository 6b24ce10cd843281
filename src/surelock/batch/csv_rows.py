"""Rows of a .csv file with a header (RFC 4180: commas, double quotes, line breaks inside quotes)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from surelock.batch.task import Row, digest_of
from surelock.errors import PromptError, shown_error
from surelock.params import SamplingParams

# Parameters whose cells are JSON, such as 64, true or {"kl_threshold": 0.001}; all other cells are text.
_JSON_PARAMETERS: Final = frozenset(field.name for field in fields(SamplingParams)) - {"unmasking", "stop"}


class _Lines:
    """The lines of a file as text, and where the next one begins."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file = file
        self._file.seek(start)
        self.start = start

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.start += len(line)
        # A byte that is not UTF-8 becomes a lone surrogate, and the fault of its row.
        return line.decode("utf-8", "surrogateescape")


def read_csv(path: Path, number: int, start: int) -> Iterator[Row]:
    """Rows from byte `start` on, where row `number` begins; 0 is the beginning of the file, header included."""
    with path.open("rb") as file:
        lines = _Lines(file, 0)
        header = _header(lines, path)
        lines = _Lines(file, start or lines.start)
        reader = csv.reader(lines, strict=True)
        while True:
            begin = lines.start
            fault = None
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                cells, fault = [], f"it is not CSV: {shown_error(error)}; quote text that holds quotes or line breaks"
            if cells or fault:
                yield _row(cells, header, number, begin, fault)
                number += 1


def _header(lines: _Lines, path: Path) -> list[str]:
    try:
        header = next(csv.reader(lines, strict=True), [])
    except csv.Error as error:
        raise PromptError(f"--input {path} has no header that is CSV: {shown_error(error)}") from None
    if header:
        header[0] = header[0].removeprefix("\ufeff")
    if len(set(header)) != len(header):
        raise PromptError(f"--input {path} has two columns of the same name; rename one")
    return header


def _row(cells: list[str], header: list[str], number: int, start: int, fault: str | None) -> Row:
    content = "\x1f".join(cells).encode("utf-8", "surrogateescape")
    digest = digest_of(content + (fault or "").encode())
    if fault is None and len(cells) != len(header):
        fault = f"it has {len(cells)} cells; the header has {len(header)}"
    if fault is None:
        try:
            return Row(number, digest, start, _values(cells, header))
        except ValueError as error:
            fault = str(error)
    return Row(number, digest, start, {}, fault)


def _values(cells: list[str], header: list[str]) -> dict[str, Any]:
    """Cells by column; an empty one is not given. ValueError says what is wrong with a cell."""
    return {name: _value(name, cell) for name, cell in zip(header, cells, strict=True) if cell}


def _value(name: str, cell: str) -> object:
    try:
        cell.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not UTF-8; convert the file, for example with iconv") from None
    # A stop string is itself; several are a JSON list.
    if name in _JSON_PARAMETERS or (name == "stop" and cell.startswith("[")):
        try:
            return orjson.loads(cell)
        except orjson.JSONDecodeError:
            raise ValueError(f"{name} is {cell[:60]!r}; it must be JSON, such as 64, 0.5, true or null") from None
    return cell
