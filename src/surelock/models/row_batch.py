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
        places: [R] int64, where in the pool the position's keys and values are.
        spans: the rows grouped by request, once for each stream of it, with the places of all its keys.
    """

    token_ids: Tensor
    positions: Tensor
    places: Tensor
    spans: Spans


@dataclass(frozen=True, slots=True)
class LayerKV:
    """Keys (rotated) and values of all requests in one layer: [num_places, num_kv_heads, head_dim] each."""

    keys: Tensor
    values: Tensor
