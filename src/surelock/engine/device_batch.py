"""Everything of a batch that lives on the device, and the launching of its steps."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch

from surelock.decoding.canvas import Canvas
from surelock.decoding.step import Capacity, Method, StepKind, StepResult, compute, decide, denoise_step
from surelock.engine.bounds import step_capacity, step_kind
from surelock.engine.graphs import bucket
from surelock.engine.kv_pool import KVPool
from surelock.engine.request import Request
from surelock.engine.runner import Runner
from surelock.engine.slot_table import SlotTable
from surelock.models.transformer import Transformer

# A canvas that has to grow grows to a multiple of it, so that captured graphs do not go with every longer request.
LENGTH_STEP = 128


class Replay(Protocol):
    """Runs functions of fixed shapes, perhaps from a capture: `graphs.Graphs`."""

    def prepare(self, key: Hashable, function: Callable[[], object], rehearse: Callable[[], object]) -> None:
        """Capture function() under this key, if that has not been done."""
        ...

    def run(self, key: Hashable) -> Any:
        """What the function of this key gives."""
        ...

    def clear(self) -> None:
        """Forget what was captured."""
        ...

    def __len__(self) -> int:
        """Keys there are."""
        ...

    @property
    def num_bytes(self) -> int:
        """Of the device's memory that captures have taken."""
        ...


class DeviceBatch:
    """Canvases, keys and values, and the numbers of the requests.

    Args:
        model: the transformer.
        method: how it is decoded.
        graphs: runs steps padded to buckets and never waits for the device; None: steps of exactly the rows there are.
        poison: fill memory that nobody may read with NaN.
    """

    def __init__(self, model: Transformer, method: Method, graphs: Replay | None, *, poison: bool = False) -> None:
        self._model = model
        self._method = method
        self._graphs = graphs
        self.canvas = Canvas(model.config.hidden_size, dtype=model.dtype, device=model.device)
        self.kv = KVPool(model.config, dtype=model.dtype, device=model.device, poison=poison)
        self._table = SlotTable(self.canvas.num_slots, list(method.policies), self.canvas.device)

    def make_room(self, num_slots: int, length: int, num_places: int) -> None:
        """At least num_slots canvases of `length` positions, and num_places of keys and values."""
        if self._graphs is not None:
            length = -(-length // LENGTH_STEP) * LENGTH_STEP
        moved = self.kv.grow(num_places)
        canvas = self.canvas.grown(num_slots, length)
        if canvas is not self.canvas:
            moved = True
            self.canvas = canvas
            self._table = self._table.grown(canvas.num_slots)
        if moved and self._graphs is not None:
            self._graphs.clear()

    def put(self, request: Request) -> None:
        """Start a request that has its slot and places."""
        assert request.slot is not None
        mask_token_id = self._method.mask_token_id
        ids = torch.tensor(request.token_ids(mask_token_id), dtype=torch.int64)
        if self.canvas.device.type == "cuda":
            # A copy from pageable memory would wait for all that was launched.
            ids = ids.pin_memory().to(self.canvas.device, non_blocking=True)
        self.canvas.put(request.slot, ids, ids == mask_token_id)
        self._table.put(request)

    def remove(self, request: Request) -> None:
        """Empty the slot and places of a request that still has them."""
        assert request.slot is not None
        self.canvas.clear(request.slot)
        self._table.clear(request.slot)
        for start in request.kv_starts:
            self.kv.give_up(start, request.num_positions)

    def launch(self, running: Sequence[Request]) -> StepResult:
        """The step that `Request.num_launched` names; the tensors of the result may change with the next one."""
        for request in running:
            self._table.advance(request)
        self._table.upload()
        kind = step_kind(running)
        is_guided = any(request.num_streams > 1 for request in running)
        if self._graphs is None:
            runner = Runner(self._model, self.kv, self._table, None if is_guided else 0)
            return denoise_step(self.canvas, self._table.plan(kind), self._method, runner)

        exact = step_capacity(running, kind)
        assert exact.rows is not None
        assert exact.proposed is not None
        assert exact.tested is not None
        # A graph for each pair of the last two, so fewer of them: rows of the head cost a fraction of a row.
        capacity = Capacity(bucket(exact.rows), bucket(exact.proposed, 8), bucket(exact.tested, 2))
        num_guided = sum(
            request.num_rows_bound // request.num_streams for request in running if request.num_streams > 1
        )
        if capacity.rows:
            self._graphs.run(self._prepare_compute(capacity.rows, bucket(num_guided)))
        result: StepResult = self._graphs.run(self._prepare_decide(kind, capacity))
        return result

    def warm_up(self, max_rows: int) -> None:
        """Capture the forwards of up to max_rows rows without guidance, largest first, so that the others fit in."""
        if self._graphs is not None:
            for size in sorted({bucket(num_rows) for num_rows in range(1, max_rows + 1)}, reverse=True):
                self._prepare_compute(size, 0)

    def _prepare_compute(self, num_rows: int, num_guided: int) -> Hashable:
        runner = Runner(self._model, self.kv, self._table, num_guided)
        return self._prepare(
            (num_rows, num_guided), lambda canvas: compute(canvas, self._method.selector, runner, num_rows)
        )

    def _prepare_decide(self, kind: StepKind, capacity: Capacity) -> Hashable:
        return self._prepare(
            (kind, capacity.proposed, capacity.tested),
            lambda canvas: decide(canvas, self._table.plan(kind), self._method, capacity),
        )

    def _prepare(self, key: Hashable, part: Callable[[Canvas], object]) -> Hashable:
        assert self._graphs is not None
        self._graphs.prepare(key, lambda: part(self.canvas), lambda: part(self.canvas.blank()))
        return key
