"""Attention from packed rows to the whole slots of their requests: ragged queries, dense keys, no causal mask.

Contract: `row_attention(queries, keys, values, spans) -> [R, num_heads, head_dim]`
    queries  [R, num_heads, head_dim], rows of one span next to each other
    keys, values  [num_slots, length, num_kv_heads, head_dim]; num_kv_heads divides num_heads
    spans  for each: its slot, its number of rows (0 allowed) and how many keys of the slot are valid
Elements of a slot at or beyond its number of keys are never read (tests poison them with NaN). Scale 1/sqrt(head_dim).
"""

from surelock.ops.row_attention.reference import RowSpan, row_attention

__all__ = ["RowSpan", "row_attention"]
