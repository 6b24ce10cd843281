"""Attention from packed rows to all keys of their requests: ragged queries, dense keys, no causal mask.

Contract: `row_attention(queries, keys, values, spans) -> [R, num_heads, head_dim]`
    queries  [R, num_heads, head_dim], rows of one span next to each other
    keys, values  [num_places, num_kv_heads, head_dim], one pool for all requests; num_kv_heads divides num_heads
    spans  for each: its number of rows (0 allowed) and the places, next to each other, of the keys they attend to
Places of no span are never read (tests poison them with NaN). Scale 1/sqrt(head_dim).

Triton on a CUDA device in half precision; float32, which is for comparing, takes the reference everywhere.
"""

import torch
from torch import Tensor

from surelock.ops.dispatch import choose
from surelock.ops.row_attention.reference import row_attention as reference
from surelock.ops.row_attention.spans import RowSpan, Spans

_fast = choose("row_attention", reference)


def row_attention(queries: Tensor, keys: Tensor, values: Tensor, spans: Spans) -> Tensor:
    """Softmax attention of every row to all keys of its span; shapes in the package's docstring."""
    return (reference if queries.dtype == torch.float32 else _fast)(queries, keys, values, spans)


__all__ = ["RowSpan", "Spans", "reference", "row_attention"]
