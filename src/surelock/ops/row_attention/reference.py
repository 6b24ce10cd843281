"""Plain PyTorch attention, one span at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class RowSpan(NamedTuple):
    """Rows that attend to one slot."""

    slot: int
    num_rows: int
    num_keys: int


def row_attention(queries: Tensor, keys: Tensor, values: Tensor, spans: Sequence[RowSpan]) -> Tensor:
    """Softmax attention of every row to all valid keys of its slot; shapes in the package's docstring."""
    grouped = queries.shape[1] != keys.shape[2]
    output = torch.empty_like(queries)
    start = 0
    for slot, num_rows, num_keys in spans:
        if num_rows:
            rows = slice(start, start + num_rows)
            # [1, heads, rows or keys, head_dim]
            q = queries[rows].transpose(0, 1).unsqueeze(0)
            k = keys[slot, :num_keys].transpose(0, 1).unsqueeze(0)
            v = values[slot, :num_keys].transpose(0, 1).unsqueeze(0)
            attended = F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
            output[rows] = attended.squeeze(0).transpose(0, 1)
        start += num_rows
    assert start == queries.shape[0], "spans must cover the rows"
    return output
