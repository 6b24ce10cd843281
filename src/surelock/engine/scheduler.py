"""Which requests are in the batch: they wait in order and start when slots, rows and memory allow."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import Final

from surelock.engine.position_pool import PositionPool
from surelock.engine.request import Request

# Requests that must have started since memory ran out before the row cap is doubled.
NUM_ADMISSIONS_BEFORE_RAISE: Final = 64


class Scheduler:
    """First come, first served, by slots, rows and positions of keys and values.

    What permanent locks free, the next request uses: `Request.num_rows` of the running requests adds up to at most
    max_rows, or one request runs alone. Every request that is added must fit into the pool when it is empty.

    Args:
        max_batch_size: running requests at most; slots are 0 .. max_batch_size - 1.
        max_rows: rows of one step at most, all streams counted. A request that has more of its own runs alone.
        pool: positions for keys and values; each stream of a running request has a range of it.
    """

    def __init__(self, max_batch_size: int, max_rows: int, pool: PositionPool) -> None:
        # A heap; a sorted list is one.
        self._free_slots = list(range(max_batch_size))
        self._max_rows = max_rows
        self._row_cap = max_rows
        self._num_admitted_under_cap = 0
        self._has_just_shrunk = False
        self._pool = pool
        self.waiting: deque[Request] = deque()
        # In the order they started.
        self.running: list[Request] = []

    @property
    def has_unfinished(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self.waiting or self.running)

    @property
    def num_rows(self) -> int:
        """Rows of the next step of the running requests, at most."""
        return sum(request.num_rows for request in self.running)

    @property
    def row_cap(self) -> int:
        """Rows up to which requests start now: max_rows, or less for a while after memory ran out."""
        return self._row_cap

    def add(self, request: Request) -> None:
        """Queue a request."""
        self.waiting.append(request)

    def admit(self) -> list[Request]:
        """Start waiting requests in order: set their `slot` and `kv_starts`; returns them.

        No request overtakes one that does not fit yet, even if it would fit itself: running requests only ever free
        rows, slots and positions, so the first in line is sure to start, while a stream of small requests that
        overtake could keep a large one out for ever.
        """
        if self.waiting and not self.running:
            if not self._has_just_shrunk:
                self._raise_cap()
            self._has_just_shrunk = False
        admitted: list[Request] = []
        num_rows = self.num_rows
        while self.waiting and self._free_slots:
            request = self.waiting[0]
            if self.running and num_rows + request.num_rows > self._row_cap:
                break
            kv_starts = self._take_positions(request)
            if kv_starts is None:
                break
            self.waiting.popleft()
            # The lowest, so that the slots in use stay dense and what is as large as the last one stays small.
            request.slot = heappop(self._free_slots)
            request.kv_starts = kv_starts
            self.running.append(request)
            admitted.append(request)
            num_rows += request.num_rows
            self._count_admission()
        return admitted

    def release(self, request: Request) -> None:
        """Take a request out of the batch, or out of the queue. ValueError if it is in neither."""
        if request.slot is None:
            self.waiting.remove(request)
            return
        self.running.remove(request)
        self._take_back(request)

    def shrink(self) -> list[Request]:
        """Out of memory: send all running requests back to the head of the queue; they start again, in their order.

        From now on at most half of the rows run together, until that cap is raised: it doubles, up to max_rows, after
        every 64 requests that start and whenever the last one has left. Returns the requests sent back, none if at
        most one runs: then there is nothing to shrink.
        """
        if len(self.running) <= 1:
            return []
        self._row_cap = max(1, self.num_rows // 2)
        self._num_admitted_under_cap = 0
        self._has_just_shrunk = True
        sent_back, self.running = self.running, []
        for request in reversed(sent_back):
            self._take_back(request)
            request.restart()
            self.waiting.appendleft(request)
        return sent_back

    def _take_positions(self, request: Request) -> tuple[int, ...] | None:
        """A range for each of its streams, or nothing taken and None."""
        starts: list[int] = []
        for _ in range(request.num_streams):
            start = self._pool.take(request.num_positions)
            if start is None:
                for taken in starts:
                    self._pool.give_back(taken)
                return None
            starts.append(start)
        return tuple(starts)

    def _take_back(self, request: Request) -> None:
        """Its slot and its positions."""
        assert request.slot is not None
        heappush(self._free_slots, request.slot)
        request.slot = None
        for start in request.kv_starts:
            self._pool.give_back(start)
        request.kv_starts = ()

    def _count_admission(self) -> None:
        self._num_admitted_under_cap += 1
        if self._num_admitted_under_cap == NUM_ADMISSIONS_BEFORE_RAISE:
            self._raise_cap()

    def _raise_cap(self) -> None:
        self._row_cap = min(self._max_rows, 2 * self._row_cap)
        self._num_admitted_under_cap = 0
