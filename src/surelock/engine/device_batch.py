"""Everything of a batch that lives on the device, and the launching of its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from surelock.decoding.canvases import Canvases
from surelock.decoding.step import (
    EXACT,
    Capacity,
    Method,
    StepCounts,
    StepKind,
    StepResult,
    compute,
    decide,
    denoise_step,
    look_ahead,
)
from surelock.engine.graphs import bucket
from surelock.engine.kv_pool import KVPool
from surelock.engine.request import Request
from surelock.engine.runner import Runner
from surelock.engine.slot_table import SlotTable
from surelock.errors import EngineError
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


@dataclass(frozen=True, slots=True)
class Launched:
    """A step handed to the device.

    Attributes:
        result: its tensors, which the next step may overwrite.
        counts: `StepResult.counts`, on its way to the host.
        capacity: the room the step had.
    """

    result: StepResult
    counts: Tensor
    capacity: Capacity


class DeviceBatch:
    """Canvases, keys and values, and the numbers of the requests.

    Args:
        model: the transformer.
        method: how it is decoded.
        graphs: runs steps padded to buckets and never waits for the device; None: steps of exactly the rows there are.
        poison: fill memory that must not be read with NaN.
    """

    def __init__(self, model: Transformer, method: Method, graphs: Replay | None, *, poison: bool = False) -> None:
        self._model = model
        self._method = method
        self._graphs = graphs
        self.canvas = Canvases(model.config.hidden_size, dtype=model.dtype, device=model.device)
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

    def look_ahead(self, running: Sequence[Request]) -> None:
        """Let the requests that were put since the last step know what their first one needs; waits for the device."""
        self._table.upload()
        counts = look_ahead(self.canvas, self._table.inputs(step_kind(running)), self._method).T.tolist()
        for request in running:
            assert request.slot is not None
            request.expect(*counts[request.slot])

    def launch(self, running: Sequence[Request]) -> Launched:
        """The next step of every slot; it has room for what these requests, all of them, expect of it."""
        self._table.upload()
        kind, capacity = step_kind(running), EXACT
        guided = [request for request in running if request.num_streams > 1]
        if self._graphs is None:
            runner = Runner(self._model, self.kv, self._table, None if guided else 0)
            result = denoise_step(self.canvas, self._table.inputs(kind), self._method, runner)
        else:
            # A graph for each pair of the last two, so fewer of them: rows of the head cost a fraction of a row.
            capacity = Capacity(
                rows=bucket(sum(request.num_next for request in running)),
                guided=bucket(sum(request.num_next for request in guided)),
                proposed=bucket(sum(request.num_next_proposed for request in running), 8),
                tested=bucket(sum(request.num_next_tested for request in running), 2),
            )
            if capacity.rows:
                self._graphs.run(self._prepare_compute(capacity))
            result = self._graphs.run(self._prepare_decide(kind, capacity))
        return Launched(result, result.counts.to("cpu", non_blocking=True, copy=True), capacity)

    def collect(self, launched: Launched, running: Sequence[Request]) -> None:
        """Tell the requests that were launched what the step counted; waits for the device.

        Raises:
            EngineError: the step had less room than it needed, so rows are missing from it.
        """
        if self.canvas.device.type == "cuda":
            torch.cuda.current_stream(self.canvas.device).synchronize()
        columns = launched.counts.T.tolist()
        wanted: Counter[str] = Counter()
        for request in running:
            assert request.slot is not None
            counts = StepCounts(*columns[request.slot])
            request.count(counts)
            wanted.update(rows=counts.rows, proposed=counts.proposed, tested=counts.scored)
            wanted.update(guided=counts.rows if request.num_streams > 1 else 0)
        for name, num in wanted.items():
            room = getattr(launched.capacity, name)
            if room is not None and num > room:
                raise EngineError(f"a step had room for {room} rows ({name}) and needed {num}: please report this")

    def warm_up(self, max_rows: int) -> None:
        """Capture the forwards of up to max_rows rows without guidance, largest first, so that the others fit in."""
        if self._graphs is not None:
            for size in sorted({bucket(num_rows) for num_rows in range(1, max_rows + 1)}, reverse=True):
                self._prepare_compute(Capacity(rows=size, guided=0))

    def _prepare_compute(self, capacity: Capacity) -> Hashable:
        runner = Runner(self._model, self.kv, self._table, capacity.guided)
        return self._prepare((capacity.rows, capacity.guided), lambda canvas: compute(canvas, runner, capacity.rows))

    def _prepare_decide(self, kind: StepKind, capacity: Capacity) -> Hashable:
        return self._prepare(
            (kind, capacity.proposed, capacity.tested),
            lambda canvas: decide(canvas, self._table.inputs(kind), self._method, capacity),
        )

    def _prepare(self, key: Hashable, part: Callable[[Canvases], object]) -> Hashable:
        assert self._graphs is not None
        self._graphs.prepare(key, lambda: part(self.canvas), lambda: part(self.canvas.blank()))
        return key


def step_kind(running: Iterable[Request]) -> StepKind:
    """Which parts of a step these requests need."""
    requests = list(running)
    locks = [request.lock for request in requests if not request.lock.is_never]
    return StepKind(
        policies=frozenset(request.params.unmasking for request in requests),
        may_sample=any(request.params.temperature > 0 for request in requests),
        may_lock=bool(locks),
        refreshes=any(lock.refresh is not None for lock in locks),
        has_gate=any(lock.confidence_percentile is not None for lock in locks),
        measures_late=any(
            lock.min_visible_steps == 0 or (lock.confidence_percentile is not None and lock.gate_scope == "active")
            for lock in locks
        ),
    )
