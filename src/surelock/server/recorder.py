"""`RecordingEngine`: an engine whose snapshots carry the history of their request.

An `AsyncEngine` gives a slow reader the newest snapshot only, and by the time it is read the device thread has moved
on. So what an answer needs of earlier steps is written down here, in the device thread, step by step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from surelock.assemble import spent
from surelock.engine.device_thread import SteppedEngine
from surelock.engine.request import Request
from surelock.engine.snapshot import Snapshot
from surelock.params import SamplingParams


@dataclass(frozen=True, slots=True)
class RecordedSnapshot(Snapshot):
    """A snapshot with what happened up to its step; nothing in it changes afterwards.

    Attributes:
        step: steps done.
        active_rows: positions computed in each of them.
        spent: what they computed, see `surelock.assemble.spent`.
        commits: {position: (step, confidence)} of every token committed in a step that was watched.
        seconds: since the request began to run.
        started: `time.monotonic()` when it did.
        num_restarts: how often it began again because memory ran out.
    """

    step: int = 0
    active_rows: tuple[int, ...] = ()
    spent: dict[str, int] = field(default_factory=dict)
    commits: dict[int, tuple[int, float]] = field(default_factory=dict)
    seconds: float = 0.0
    started: float = 0.0
    num_restarts: int = 0


@dataclass(slots=True)
class _Record:
    started: float | None = None
    step: int = 0
    num_restarts: int = 0
    commits: dict[int, tuple[int, float]] = field(default_factory=dict)


class RecordingEngine:
    """Wraps an engine; for one thread at a time, except for the counts, which any may read.

    Attributes:
        num_rows: rows of the next step of the running requests, not the room they keep.
        num_restarts: requests that began again because memory ran out.
    """

    def __init__(self, engine: SteppedEngine) -> None:
        self._engine = engine
        self._records: dict[Request, _Record] = {}
        self.num_rows = 0
        self.num_restarts = 0

    @property
    def has_unfinished(self) -> bool:
        """See `Engine.has_unfinished`."""
        return self._engine.has_unfinished

    def add_request(self, canvas_ids: Sequence[int | None], params: SamplingParams) -> Request:
        """See `Engine.add_request`."""
        request = self._engine.add_request(canvas_ids, params)
        self._records[request] = _Record()
        return request

    def abort_request(self, request: Request) -> None:
        """See `Engine.abort_request`."""
        self._records.pop(request, None)
        self._engine.abort_request(request)
        # There may be no step after it.
        self._count_rows()

    def step(self, *, watched: bool = True) -> list[Snapshot]:
        """See `Engine.step`; the snapshots are `RecordedSnapshot`s."""
        before = time.monotonic()
        snapshots = self._engine.step(watched=watched)
        for request, record in self._records.items():
            if request.slot is not None or request.step:
                record.started = record.started or before
            if request.step < record.step:
                record.num_restarts += 1
                self.num_restarts += 1
                record.commits.clear()
            record.step = request.step
        self._count_rows()
        # What a request did before it was sent back to begin again is not its history any more.
        told = (snapshot for snapshot in snapshots if snapshot.request.step or snapshot.request.is_finished)
        return [self._recorded(snapshot) for snapshot in told]

    def _count_rows(self) -> None:
        running = (request for request in self._records if request.slot is not None)
        self.num_rows = sum(request.num_next * request.num_streams for request in running)

    def _recorded(self, snapshot: Snapshot) -> Snapshot:
        request = snapshot.request
        record = self._records.get(request)
        if record is None:
            return snapshot
        for position, confidence in snapshot.committed:
            record.commits[position] = (request.step, confidence)
        if request.is_finished:
            del self._records[request]
        started = record.started or time.monotonic()
        return RecordedSnapshot(
            **{each.name: getattr(snapshot, each.name) for each in fields(Snapshot)},
            step=request.step,
            active_rows=tuple(request.active_rows),
            spent=spent(request),
            commits=dict(record.commits),
            seconds=time.monotonic() - started,
            started=started,
            num_restarts=record.num_restarts,
        )
