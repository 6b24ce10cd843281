"""The input's own columns beside those of the answers: as Arrow has them, or as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson

from surelock.batch.input import MAX_COLUMNS, Scan
from surelock.batch.parquet_rows import carried_batches, carried_schema, has_openai_rows
from surelock.batch.row_formats import is_openai_row
from surelock.batch.task import OPENAI_COLUMNS
from surelock.errors import ParameterError

# The answers have it themselves.
_NAME: Final = "custom_id"
_CLASH: Final = "input_"


def carried_columns(found: Scan, taken: Iterable[str]) -> Carried | None:
    """All columns of the input but custom_id, if any; one whose name is taken is named `input_NAME`.

    Raises:
        ParameterError: JSON lines have too many keys to be columns.
        PromptError: a column cannot be read within limits.
    """
    is_parquet = found.path.suffix == ".parquet"
    if len(found.columns) > MAX_COLUMNS and not is_parquet:
        raise ParameterError(
            f"--input {found.path} has more than {MAX_COLUMNS} columns, too many to go with the answers into a table: "
            "name the --output .jsonl"
        )
    left_out = {_NAME, *(OPENAI_COLUMNS if is_parquet and has_openai_rows(found.path) else ())}
    names = [name for name in found.columns if name not in left_out]
    if not names:
        return None
    used, given = {*taken, *names}, []
    for name in names:
        new = name
        while new in taken or (new != name and new in used):
            new = _CLASH + new
        used.add(new)
        given.append(new)
    return ParquetColumns(found.path, names, given) if is_parquet else TextColumns(found, names, given)


class TextColumns:
    """Columns of .jsonl and .csv: text as it is, anything else as JSON. Rows are asked for in ascending order.

    Attributes:
        names: of the columns in the output.
    """

    def __init__(self, found: Scan, inputs: Sequence[str], names: Sequence[str]) -> None:
        self.names = names
        self._inputs = inputs
        self._prompt_column = found.prompt_column
        self._rows = found.rows()
        self._waiting: list[Sequence[str | None]] = []
        self._num_bytes = 0

    @property
    def schema(self) -> Any:
        """Arrow's, of strings with these names."""
        import pyarrow as arrow

        return arrow.schema([(name, arrow.string()) for name in self.names])

    def texts(self, number: int) -> list[str | None]:
        """The cells of a row; one of OpenAI's has none but what its format says."""
        row = next(row for row in self._rows if row.number == number)
        if is_openai_row(row.values, self._prompt_column):
            return [None] * len(self.names)
        return [_text(row.values.get(name)) for name in self._inputs]

    def add(self, number: int) -> int:
        """Put a row beside those that wait for `table`; returns about how many bytes wait."""
        texts = self.texts(number)
        self._waiting.append(texts)
        self._num_bytes += sum(len(text) for text in texts if text)
        return self._num_bytes

    def table(self) -> Any:
        """An Arrow table of the rows that waited."""
        import pyarrow as arrow

        columns = list(zip(*self._waiting, strict=True)) or [()] * len(self.names)
        self._waiting, self._num_bytes = [], 0
        return arrow.Table.from_arrays([arrow.array(column, arrow.string()) for column in columns], schema=self.schema)


class ParquetColumns:
    """Columns of .parquet, with the methods of `TextColumns`. Python's values could not hold all that Arrow can."""

    def __init__(self, path: Path, inputs: Sequence[str], names: Sequence[str]) -> None:
        self.names = names
        schema = carried_schema(path, inputs)
        self.schema = schema.empty_table().rename_columns(list(names)).schema
        self._batches = carried_batches(path, inputs)
        self._batch: Any = None
        self._texts: list[list[str | None]] = []
        # Of the batch: the number of its first row, and of the row behind its last.
        self._first = self._end = 1
        # Rows of the batch, and parts of earlier ones.
        self._waiting: list[int] = []
        self._parts: list[Any] = []
        self._num_bytes = 0

    def texts(self, number: int) -> list[str | None]:
        """The cells of a row."""
        if self._move_to(number):
            self._texts = [texts_of(column) for column in self._batch.columns]
        return [texts[number - self._first] for texts in self._texts]

    def add(self, number: int) -> int:
        """Hold a row for `table`."""
        self._move_to(number)
        self._waiting.append(number - self._first)
        self._num_bytes += self._batch.nbytes // self._batch.num_rows
        return self._num_bytes

    def table(self) -> Any:
        """What was held."""
        import pyarrow as arrow

        self._put_aside()
        parts, self._parts, self._num_bytes = self._parts, [], 0
        table = arrow.Table.from_batches(parts) if parts else self.schema.empty_table()
        return table.rename_columns(list(self.names))

    def _move_to(self, number: int) -> bool:
        """Read on to the batch of a row; whether it is another one."""
        before = self._batch
        while number >= self._end:
            self._put_aside()
            self._batch = next(self._batches)
            self._first, self._end = self._end, self._end + self._batch.num_rows
        return self._batch is not before

    def _put_aside(self) -> None:
        """Copy what waits, so that it does not hold the whole batch."""
        if self._waiting:
            self._parts.append(self._batch.take(self._waiting))
            self._waiting = []


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def texts_of(column: Any) -> list[str | None]:
    """An Arrow array as text that can be read again: ISO 8601 (UTC where there is a time zone), hexadecimal, JSON."""
    import pyarrow as arrow
    from pyarrow import types

    if isinstance(column, arrow.ExtensionArray):
        column = column.storage
    kind = column.type
    if types.is_nested(kind):
        return [orjson.dumps(_plain(cell)).decode() if cell.is_valid else None for cell in column]
    if types.is_string(kind) or types.is_large_string(kind):
        # Text that is not UTF-8 is no reason to lose the rest.
        return [None if cell is None else cell.decode(errors="replace") for cell in _as_bytes(column)]
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return [None if cell is None else cell.hex() for cell in column.to_pylist()]
    zone = "Z" if types.is_timestamp(kind) and kind.tz is not None else ""
    if zone:
        # The zone itself may be unknown here.
        column = column.cast(arrow.timestamp(kind.unit))
    try:
        texts = column.cast(arrow.string()).to_pylist()
    # A type that Arrow cannot write, which no file of its own has today.
    except (arrow.ArrowException, UnicodeDecodeError):
        return [f"<{kind}>" if cell.is_valid else None for cell in column]
    # Arrow says so of dates beyond its calendar; the count from 1970 is left.
    return [
        str(column[index].value) if text and text.startswith("<value out of range") else text and text + zone
        for index, text in enumerate(texts)
    ]


def _as_bytes(column: Any) -> list[bytes | None]:
    import pyarrow as arrow

    is_large = arrow.types.is_large_string(column.type)
    cells: list[bytes | None] = column.view(arrow.large_binary() if is_large else arrow.binary()).to_pylist()
    return cells


def _plain(cell: Any) -> Any:
    """A scalar as JSON can hold it, whatever is in it."""
    import pyarrow as arrow

    if not cell.is_valid:
        return None
    if isinstance(cell, arrow.MapScalar):
        return [{"key": _plain(item["key"]), "value": _plain(item["value"])} for item in cell.values]
    if isinstance(cell, arrow.StructScalar):
        names = [field.name for field in cell.type]
        return {name: _plain(cell[index]) for index, name in enumerate(names)}
    if isinstance(cell, arrow.ListScalar | arrow.LargeListScalar | arrow.FixedSizeListScalar):
        return [_plain(item) for item in cell.values]
    if isinstance(cell, arrow.BooleanScalar | arrow.FloatScalar | arrow.DoubleScalar):
        return cell.as_py()
    if arrow.types.is_integer(cell.type):
        return cell.as_py()
    (text,) = texts_of(arrow.repeat(cell, 1))
    return text


Carried: TypeAlias = TextColumns | ParquetColumns
