"""Plain PyTorch scatter."""

from __future__ import annotations

from torch import Tensor


def store_kv(buffer: Tensor, slots: Tensor, positions: Tensor, rows: Tensor) -> None:
    """buffer[slots, positions] = rows; shapes in the package's docstring."""
    buffer.index_put_((slots, positions), rows)
