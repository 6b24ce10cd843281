"""Rows of posteriors a part at a time: what is computed of a part has several tensors of its size."""

from __future__ import annotations

from typing import Final

# Elements of one [rows, V] part.
PART_ELEMENTS: Final = 1 << 24


def rows_at_a_time(num_columns: int) -> int:
    """Rows of so many columns that make one part; at least 1."""
    return max(1, PART_ELEMENTS // num_columns)


def row_parts(num_rows: int, num_columns: int) -> list[slice]:
    """Slices that cover all rows; one empty slice if there is none."""
    size = rows_at_a_time(num_columns)
    return [slice(start, start + size) for start in range(0, max(num_rows, 1), size)]
