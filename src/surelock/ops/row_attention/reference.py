"""Plain PyTorch attention, one span at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from surelock.ops.row_attention.spans import Spans


def row_attention(queries: Tensor, keys: Tensor, values: Tensor, spans: Spans) -> Tensor:
    """Softmax attention of every row to all valid keys of its slot; shapes in the package's docstring."""
    assert spans.host is not None
    grouped = queries.shape[1] != keys.shape[2]
    output = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
    start = 0
    for slot, num_rows, num_keys in spans.host:
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
