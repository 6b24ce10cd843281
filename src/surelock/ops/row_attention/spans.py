"""Which rows attend to which slot, on the host and on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor


class RowSpan(NamedTuple):
    """Rows, next to each other, that attend to one slot, of which num_keys positions are valid."""

    slot: int
    num_rows: int
    num_keys: int


@dataclass(frozen=True, slots=True)
class Spans:
    """The spans of a batch, in the order of its rows.

    Attributes:
        host: None inside a captured graph, where only the tensors change between replays.
        row_starts: int32 [n + 1], row at which each span begins, and the number of rows.
        slots, num_keys: int32 [n].
        max_rows: no span has more rows.
    """

    host: tuple[RowSpan, ...] | None
    row_starts: Tensor
    slots: Tensor
    num_keys: Tensor
    max_rows: int

    @classmethod
    def of(cls, spans: Sequence[RowSpan], device: torch.device) -> Spans:
        """From host numbers; one copy to the device."""
        starts = [0, *accumulate(span.num_rows for span in spans)]
        columns = [starts[:-1], [span.slot for span in spans], [span.num_keys for span in spans]]
        table = torch.tensor([[*column, starts[-1]] for column in columns], dtype=torch.int32).to(
            device, non_blocking=True
        )
        num = len(spans)
        max_rows = max((span.num_rows for span in spans), default=0)
        return cls(tuple(spans), table[0], table[1, :num], table[2, :num], max_rows)
