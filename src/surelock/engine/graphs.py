"""Parts of a step as captured CUDA graphs, so that a part is one launch instead of hundreds.

A graph has fixed shapes and addresses. Rows are padded to the next bucket with rows that touch nothing of any request;
everything else about a step is data at a fixed place. Active rows of a request never grow, so a run walks down the
buckets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch


def bucket(num_rows: int, parts: int = 16) -> int:
    """Rows that num_rows is padded to: a share 1 / parts of them at most, or 31 where rows cost next to nothing.

    Parts, a power of two, is how many buckets there are from one power of two to the next.
    """
    if num_rows <= 64:
        return 0 if num_rows == 0 else max(8, 1 << (num_rows - 1).bit_length())
    step = max(32, (1 << (num_rows.bit_length() - 1)) // parts)
    return -(-num_rows // step) * step


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    output: Any


class Graphs:
    """Captured functions by key, the least recently used of which goes when there are more than max_graphs.

    They share one pool of memory for what lives inside a run, so many take little more than the largest.

    Attributes:
        num_bytes: of the device's memory that captures have taken so far, the driver's own included.
    """

    def __init__(self, device: torch.device, max_graphs: int) -> None:
        self._device = device
        self._max_graphs = max_graphs
        self._captured: OrderedDict[Hashable, _Captured] = OrderedDict()
        self._pool: Any = None
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._captured)

    def clear(self) -> None:
        """Drop all, because something they hold the address of has moved."""
        self._captured.clear()
        self._pool = None
        self.num_bytes = 0

    def prepare(self, key: Hashable, function: Callable[[], object], rehearse: Callable[[], object]) -> None:
        """Capture function() under this key, if that has not been done.

        rehearse() runs the same kernels on the same shapes without consequences: kernels compile and libraries
        initialise outside of a capture.
        """
        if key not in self._captured:
            self._captured[key] = self._capture(function, rehearse)
            if len(self._captured) > self._max_graphs:
                self._captured.popitem(last=False)
        self._captured.move_to_end(key)

    def run(self, key: Hashable) -> Any:
        """Launch what was captured; its output, which the next run of any key may overwrite."""
        captured = self._captured[key]
        captured.graph.replay()
        return captured.output

    def _capture(self, function: Callable[[], object], rehearse: Callable[[], object]) -> _Captured:
        free = torch.cuda.mem_get_info(self._device)[0]
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            rehearse()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = function()
        self._pool = self._pool or graph.pool()
        self.num_bytes += max(0, free - torch.cuda.mem_get_info(self._device)[0])
        return _Captured(graph, output)
