"""The forward of R rows as a captured CUDA graph, so that a step is one launch instead of hundreds.

A graph has fixed shapes. Rows are padded to the next bucket with rows that read and write only the scratch slot, and
spans to a fixed number with empty ones; everything else about a batch is data that is copied in before a replay. Active
rows of a request never grow, so a run walks down the buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from surelock.models.row_batch import LayerKV, RowBatch
from surelock.models.transformer import Transformer
from surelock.ops.row_attention import RowSpan, Spans

# The KV slot that padding rows read and write.
SCRATCH_SLOT = 0


def bucket(num_rows: int) -> int:
    """Rows that num_rows is padded to: a sixteenth of them at most, or 31 where rows cost next to nothing."""
    if num_rows <= 64:
        return max(8, 1 << (num_rows - 1).bit_length())
    step = max(32, 1 << (num_rows.bit_length() - 5))
    return -(-num_rows // step) * step


def padded_spans(spans: Sequence[RowSpan], num_rows: int, num_spans: int) -> list[RowSpan]:
    """Spans that cover num_rows rows, num_spans of them: a padding span in the scratch slot, then empty ones."""
    padding = num_rows - sum(span.num_rows for span in spans)
    assert padding >= 0
    empty = num_spans - len(spans) - 1
    assert empty >= 0
    return [*spans, RowSpan(SCRATCH_SLOT, padding, 1), *[RowSpan(SCRATCH_SLOT, 0, 1)] * empty]


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    hidden: Tensor


class GraphedForward:
    """`Transformer.hidden` over one set of slots, captured once for each row bucket it meets.

    Args:
        model: on a CUDA device, in half precision.
        kv: its slots; SCRATCH_SLOT must not belong to any request.
        max_spans: spans a batch may have.
    """

    def __init__(self, model: Transformer, kv: Sequence[LayerKV], max_spans: int) -> None:
        self._model = model
        self._kv = kv
        self._num_spans = max_spans + 1
        self._graphs: dict[int, _Captured] = {}
        self._pool: Any = None
        self._rows = torch.zeros((3, 0), dtype=torch.int64, device=model.device)
        # row starts, slots, numbers of keys; the first has one column more.
        self._table = torch.zeros((3, self._num_spans + 1), dtype=torch.int32, device=model.device)

    @property
    def num_graphs(self) -> int:
        """Buckets captured so far."""
        return len(self._graphs)

    @torch.inference_mode()
    def __call__(self, batch: RowBatch) -> Tensor:
        """Hidden rows [R, d]; a view that the next call overwrites."""
        assert batch.spans.host is not None
        num_rows = batch.token_ids.shape[0]
        size = bucket(num_rows)
        self._make_room(size)
        self._fill(torch.stack((batch.token_ids, batch.positions, batch.slots)), batch.spans.host, size)
        captured = self._graphs.get(size)
        if captured is None:
            captured = self._graphs[size] = self._capture(size)
        captured.graph.replay()
        return captured.hidden[:num_rows]

    @torch.inference_mode()
    def warm_up(self, max_rows: int) -> None:
        """Capture every bucket up to max_rows that is not there yet, largest first, so that the rest fit in."""
        sizes = {bucket(num_rows) for num_rows in range(1, max_rows + 1)}
        self._make_room(max(sizes))
        for size in sorted(sizes - self._graphs.keys(), reverse=True):
            self._fill(self._rows[:, :0], (), size)
            self._graphs[size] = self._capture(size)

    def _make_room(self, size: int) -> None:
        if size > self._rows.shape[1]:
            # A captured graph reads the buffer it was captured with.
            self._graphs.clear()
            self._rows = torch.zeros((3, size), dtype=torch.int64, device=self._model.device)

    def _fill(self, rows: Tensor, host_spans: Sequence[RowSpan], size: int) -> None:
        """Copy rows [3, R] (tokens, positions, slots) and their spans to where a graph of `size` rows reads them."""
        num_rows = rows.shape[1]
        self._rows[:, :num_rows].copy_(rows)
        self._rows[:, num_rows:size].zero_()
        spans = padded_spans(host_spans, size, self._num_spans)
        starts = [0, *accumulate(span.num_rows for span in spans)]
        columns = [starts, [span.slot for span in spans] + [0], [span.num_keys for span in spans] + [0]]
        self._table.copy_(torch.tensor(columns, dtype=torch.int32).pin_memory(), non_blocking=True)

    def _capture(self, size: int) -> _Captured:
        tokens, positions, slots = self._rows[:, :size]
        row_starts, span_slots, num_keys = self._table
        length = self._kv[0].keys.shape[1]
        spans = Spans(None, row_starts, span_slots[:-1], num_keys[:-1], min(size, length))
        batch = RowBatch(tokens, positions, slots, spans)
        # Kernels compile and libraries initialise outside the capture.
        stream = torch.cuda.Stream(self._model.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._model.device))
        with torch.cuda.stream(stream):
            self._model.hidden(batch, self._kv)
        torch.cuda.current_stream(self._model.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            hidden = self._model.hidden(batch, self._kv)
        self._pool = self._pool or graph.pool()
        return _Captured(graph, hidden)
