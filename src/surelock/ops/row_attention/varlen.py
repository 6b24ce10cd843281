"""FlashAttention over ragged spans, from torch itself. Nothing here depends on host numbers: it can be captured."""

from __future__ import annotations

import torch
from torch import Tensor

from surelock.ops.row_attention.spans import Spans


def row_attention(queries: Tensor, keys: Tensor, values: Tensor, spans: Spans) -> Tensor:
    """Softmax attention of every row to all keys of its span; shapes in the package's docstring.

    `seqused_k` says how many keys of a span count, so spans may lie anywhere in the pool. The public `varlen_attn`
    takes that argument only from torch 2.12 on; the operator under it has it in 2.11 too.
    """
    output: Tensor = torch.ops.aten._flash_attention_forward(
        queries,
        keys,
        values,
        spans.row_starts,
        spans.key_starts,
        spans.max_rows,
        spans.max_keys,
        0.0,
        False,
        False,
        seqused_k=spans.num_keys,
    )[0]
    return output
