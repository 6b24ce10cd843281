"""Rows of a .parquet file, a few at a time; columns that mean nothing here stay Arrow's and are only carried along."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from surelock.batch.task import MAX_ROW_BYTES, OPENAI_COLUMNS, Row, digest_of
from surelock.errors import ParameterError, PromptError, shown, shown_error

# A group of rows may be as large as the file.
ROWS_PER_BATCH: Final = 1024
# Of the 64 of `Row.start`, which holds the row group and the number of its first row.
_GROUP_BITS: Final = 24
# Of the columns that are read, in one row group. A page may be as large as its group, and is decoded as a whole.
MAX_GROUP_BYTES: Final = 1 << 29


def parquet_columns(path: Path) -> list[str]:
    """Names of the columns; PromptError if it is no Parquet file, or two columns have one name."""
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def has_openai_rows(path: Path) -> bool:
    """Whether the table has a `url` and, as an object, a `body`."""
    with _opened(path) as file:
        schema = file.schema_arrow
        return {"url", "body"} <= set(schema.names) and schema.field("body").type.num_fields > 0


def read_parquet(path: Path, number: int, start: int, columns: Sequence[str]) -> Iterator[Row]:
    """Rows from `number` on with those of the columns that there are.

    Args:
        start: `Row.start` of that row, or 0 for the beginning of the file.
    """
    wanted = set(columns) - set(() if has_openai_rows(path) else OPENAI_COLUMNS)
    first_group, current = start & ((1 << _GROUP_BITS) - 1), max(1, start >> _GROUP_BITS)
    with _opened(path) as file:
        names = [name for name in file.schema_arrow.names if name in wanted]
        for group in range(first_group, file.num_row_groups):
            begin = group | current << _GROUP_BITS
            for batch in _batches(path, file, group, names):
                cells = [_python_values(batch.column(name)) for name in names]
                for values in zip(*cells, strict=True):
                    if current >= number:
                        yield _row(dict(zip(names, values, strict=True)), current, begin)
                    current += 1


def carried_batches(path: Path, names: Sequence[str]) -> Iterator[Any]:
    """These columns of all rows in order, as record batches that hold some rows each."""
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            yield from _batches(path, file, group, names)


def carried_schema(path: Path, names: Sequence[str]) -> Any:
    """Arrow's schema of these columns; PromptError if they cannot be read within limits."""
    import pyarrow as arrow

    with _opened(path) as file:
        for group in range(file.num_row_groups):
            _rows_per_batch(path, file.metadata, group, names)
        fields = [file.schema_arrow.field(name) for name in names]
        return arrow.schema(
            [
                (field.name, field.type.value_type if arrow.types.is_dictionary(field.type) else field.type)
                for field in fields
            ]
        )


class _Unreadable:
    """In the place of a cell that is too long, or that Python cannot hold."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __repr__(self) -> str:
        return self.fault


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise ParameterError(
            f"--input {path} is Parquet, which needs pyarrow: pip install 'surelock[parquet]', or convert it to .jsonl"
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            if len(set(schema.names)) != len(schema.names):
                raise PromptError(f"--input {path} has two columns of the same name; rename one")
            # A text that is stored once and repeated a million times stays stored once.
            texts = [name for name in schema.names if _is_text(schema.field(name).type)]
        with parquet.ParquetFile(path, metadata=metadata, read_dictionary=texts, pre_buffer=False) as file:
            yield file
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise PromptError(f"--input {path} cannot be read as Parquet: {shown_error(error)}") from None


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return any(test(kind) for test in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary))


def _batches(path: Path, file: Any, group: int, names: Sequence[str]) -> Iterator[Any]:
    """A row group as record batches of at most `ROWS_PER_BATCH` rows that take little memory."""
    size = _rows_per_batch(path, file.metadata, group, names)
    for batch in file.iter_batches(size, row_groups=[group], columns=list(names), use_threads=False):
        # A name with a dot in it may have found others too.
        yield from _decoded(batch.select(names))


def _rows_per_batch(path: Path, metadata: Any, group: int, names: Sequence[str]) -> int:
    """From what the file says about the columns before they are decoded; PromptError if they are too large."""
    about = metadata.row_group(group)
    wanted, sizes = frozenset(names), dict[str, int]()
    for index in range(about.num_columns):
        chunk, column = about.column(index), metadata.schema.column(index)
        # Names may hold dots themselves.
        parts = column.path.split(".")
        path_names = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        if name := next((each for each in path_names if each in wanted), None):
            # A list of a billion zeros is a few bytes in the file.
            items = 8 * chunk.num_values if column.max_repetition_level else 0
            sizes[name] = sizes.get(name, 0) + max(chunk.total_uncompressed_size, items)
    size = sum(sizes.values())
    if size > MAX_GROUP_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        raise PromptError(
            f"--input {path}: row group {group + 1} holds {size} bytes of the columns that are read, {shown(largest)} "
            f"most of them; the limit is {MAX_GROUP_BYTES}: write the file with smaller row groups, or as .jsonl"
        )
    num_rows: int = MAX_ROW_BYTES * about.num_rows // max(1, size)
    return max(1, min(ROWS_PER_BATCH, num_rows))


def _decoded(batch: Any) -> Iterator[Any]:
    """A batch without dictionaries, in parts if need be."""
    import pyarrow as arrow
    from pyarrow import compute

    size = 0
    for column in batch.columns:
        if arrow.types.is_dictionary(column.type) and _is_text(column.type.value_type):
            size += compute.sum(compute.binary_length(column.dictionary).take(column.indices)).as_py() or 0
    if size > MAX_ROW_BYTES and batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from _decoded(batch.slice(0, half))
        yield from _decoded(batch.slice(half))
        return
    columns = [
        column.dictionary_decode() if arrow.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    yield arrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _python_values(column: Any) -> list[Any]:
    from pyarrow import compute

    lengths = compute.binary_length(column) if _is_text(column.type) else None
    try:
        if lengths is None or (compute.max(lengths).as_py() or 0) <= MAX_ROW_BYTES:
            values: list[Any] = column.to_pylist()
            return values
    # One cell that Python cannot hold, such as text that is not UTF-8, is the fault of its row only.
    except Exception:
        pass
    return [
        _python_value(cell, 0 if lengths is None else lengths[index].as_py() or 0) for index, cell in enumerate(column)
    ]


def _python_value(cell: Any, num_bytes: int) -> Any:
    if num_bytes > MAX_ROW_BYTES:
        return _Unreadable(f"it has {num_bytes} bytes; the limit is {MAX_ROW_BYTES}: shorten it")
    try:
        return cell.as_py()
    except Exception as error:
        return _Unreadable(shown_error(error))


def _row(values: dict[str, Any], number: int, start: int) -> Row:
    try:
        # Whatever a column holds, such as dates or decimals, only has to be told apart.
        content = orjson.dumps(values, default=repr, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        content = repr(values).encode()
    digest = digest_of(content)
    for name, value in values.items():
        if isinstance(value, _Unreadable):
            return Row(number, digest, start, {}, f"{shown(name)} cannot be read: {value.fault}")
    return Row(number, digest, start, {name: value for name, value in values.items() if value is not None})
