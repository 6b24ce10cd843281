"""Rows of a .parquet file, a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from surelock.batch.task import Row, digest_of
from surelock.errors import ParameterError, PromptError, shown_error

# A group of rows may be as large as the file.
ROWS_PER_BATCH: Final = 1024
# Of the 64 of `Row.start`, which holds the row group and the number of its first row.
_GROUP_BITS: Final = 24


def read_parquet(path: Path, number: int, start: int) -> Iterator[Row]:
    """Rows from `number` on; `start` is that row's `Row.start`, or 0 for the beginning of the file."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise ParameterError(
            f"--input {path} is Parquet, which needs pyarrow: pip install 'surelock[parquet]', or convert it to .jsonl"
        ) from None
    first_group, current = start & ((1 << _GROUP_BITS) - 1), max(1, start >> _GROUP_BITS)
    try:
        with parquet.ParquetFile(path) as file:
            for group in range(first_group, file.num_row_groups):
                begin = group | current << _GROUP_BITS
                for batch in file.iter_batches(ROWS_PER_BATCH, row_groups=[group]):
                    for values in batch.to_pylist():
                        if current >= number:
                            yield _row(values, current, begin)
                        current += 1
    except arrow.ArrowInvalid as error:
        raise PromptError(f"--input {path} is not a Parquet file: {shown_error(error)}") from None


def _row(values: dict[str, Any], number: int, start: int) -> Row:
    # Whatever other columns hold, such as dates or decimals, only has to be told apart.
    content = orjson.dumps(values, default=repr, option=orjson.OPT_NON_STR_KEYS)
    given = {name: value for name, value in values.items() if value is not None}
    return Row(number, digest_of(content), start, given)
