"""The rows of one forward and where they live. Built by the engine, passed as arguments, never published."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from surelock.ops.row_attention import Spans


@dataclass(frozen=True, slots=True)
class RowBatch:
    """R rows of several requests, those of one request next to each other.

    Attributes:
        token_ids: [R] int64, the current token of each row's position.
        positions: [R] int64, index into the canvas.
        slots: [R] int64, slot that holds the request's keys and values.
        spans: the same grouping, once for each stream of a request.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    spans: Spans


@dataclass(frozen=True, slots=True)
class LayerKV:
    """Keys (rotated) and values of every slot in one layer: [num_slots, length, num_kv_heads, head_dim] each."""

    keys: Tensor
    values: Tensor
