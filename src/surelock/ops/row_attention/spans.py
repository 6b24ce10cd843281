"""Which rows attend to which keys, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor


class RowSpan(NamedTuple):
    """Rows, next to each other, that attend to num_keys places of the pool from `start` on."""

    start: int
    num_rows: int
    num_keys: int


@dataclass(frozen=True, slots=True)
class Spans:
    """The n spans of a batch, in the order of its rows.

    Attributes:
        row_starts: int32 [n + 1], row at which each span begins, and the number of rows.
        key_starts: int32 [n + 1], place of each span's first key; the last entry is not read.
        num_keys: int32 [n].
        max_rows, max_keys: no span has more.
    """

    row_starts: Tensor
    key_starts: Tensor
    num_keys: Tensor
    max_rows: int
    max_keys: int

    @classmethod
    def of(cls, spans: Sequence[RowSpan], device: torch.device) -> Spans:
        """From host numbers; one copy to the device."""
        starts = [0, *accumulate(span.num_rows for span in spans)]
        columns = [starts, [*(span.start for span in spans), 0], [*(span.num_keys for span in spans), 0]]
        table = torch.tensor(columns, dtype=torch.int32).to(device, non_blocking=True)
        max_rows = max((span.num_rows for span in spans), default=0)
        max_keys = max((span.num_keys for span in spans), default=0)
        return cls(table[0], table[1], table[2, :-1], max_rows, max_keys)
