"""FlashAttention over ragged spans, from torch itself. Nothing here depends on host numbers: it can be captured."""

from __future__ import annotations

import torch
from torch import Tensor

from surelock.ops.row_attention.spans import Spans


def row_attention(queries: Tensor, keys: Tensor, values: Tensor, spans: Spans) -> Tensor:
    """Softmax attention of every row to all valid keys of its slot; shapes in the package's docstring.

    Slots lie `length` apart, so a span's keys start at a multiple of it and `seqused_k` says how many count. The public
    `varlen_attn` takes that argument only from torch 2.12 on; the operator under it has it in 2.11 too.
    """
    length = keys.shape[1]
    # The kernel wants one start more than there are spans, and with seqused_k never reads it.
    key_starts = torch.cat((spans.slots, spans.slots[-1:])) * length
    output: Tensor = torch.ops.aten._flash_attention_forward(
        queries,
        keys.flatten(0, 1),
        values.flatten(0, 1),
        spans.row_starts,
        key_starts,
        spans.max_rows,
        length,
        0.0,
        False,
        False,
        seqused_k=spans.num_keys,
    )[0]
    return output
