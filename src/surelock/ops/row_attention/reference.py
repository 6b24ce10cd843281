"""Plain PyTorch attention, one span at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from surelock.ops.row_attention.spans import Spans


def row_attention(queries: Tensor, keys: Tensor, values: Tensor, spans: Spans) -> Tensor:
    """Softmax attention of every row to all keys of its span; shapes in the package's docstring."""
    grouped = queries.shape[1] != keys.shape[1]
    output = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
    row_starts, key_starts = spans.row_starts.tolist(), spans.key_starts.tolist()
    for span, num_keys in enumerate(spans.num_keys.tolist()):
        rows = slice(row_starts[span], row_starts[span + 1])
        if rows.start < rows.stop:
            places = slice(key_starts[span], key_starts[span] + num_keys)
            # [1, heads, rows or keys, head_dim]
            q = queries[rows].transpose(0, 1).unsqueeze(0)
            k = keys[places].transpose(0, 1).unsqueeze(0)
            v = values[places].transpose(0, 1).unsqueeze(0)
            attended = F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
            output[rows] = attended.squeeze(0).transpose(0, 1)
    assert row_starts[-1] == queries.shape[0], "spans must cover the rows"
    return output
