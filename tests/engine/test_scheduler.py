"""Who starts when: order, slots, rows and positions, whatever happens to the requests."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from surelock.engine.position_pool import PositionPool
from surelock.engine.request import Request
from surelock.engine.scheduler import NUM_ADMISSIONS_BEFORE_RAISE, Scheduler
from surelock.params import LockParams, SamplingParams


def request(number: int, num_positions: int, *, guided: bool = False, refresh: int | None = None) -> Request:
    lock = LockParams(refresh=refresh)
    params = SamplingParams(max_tokens=num_positions, cfg_scale=1.0 if guided else 0.0, lock=lock)
    return Request(number, (), params, seed=0)


def scheduler(max_batch_size: int = 8, max_rows: int = 100, capacity: int = 1000) -> Scheduler:
    return Scheduler(max_batch_size, max_rows, PositionPool(capacity))


def add(target: Scheduler, *sizes: int) -> list[Request]:
    requests = [request(number, size) for number, size in enumerate(sizes)]
    for one in requests:
        target.add(one)
    return requests


class Batch(RuleBasedStateMachine):
    """Requests that are submitted, start, shrink, finish, are aborted and run out of memory in any order."""

    @initialize(max_batch_size=st.integers(1, 5), max_rows=st.integers(1, 60), num_positions=st.integers(24, 90))
    def start(self, max_batch_size: int, max_rows: int, num_positions: int) -> None:
        self.max_batch_size, self.max_rows, self.num_positions = max_batch_size, max_rows, num_positions
        self.pool = PositionPool(1 + num_positions)
        self.scheduler = Scheduler(max_batch_size, max_rows, self.pool)
        self.num_submitted = 0
        # Every request neither finished nor aborted, in the order of submission.
        self.alive: list[Request] = []
        self.started: list[int] = []

    @rule(num_positions=st.integers(1, 12), guided=st.booleans(), refresh=st.sampled_from([None, 6]))
    def submit(self, num_positions: int, guided: bool, refresh: int | None) -> None:
        new = request(self.num_submitted, num_positions, guided=guided, refresh=refresh)
        self.num_submitted += 1
        self.alive.append(new)
        self.scheduler.add(new)

    @rule()
    def admit(self) -> None:
        was_running = list(self.scheduler.running)
        num_waiting = len(self.scheduler.waiting)
        admitted = self.scheduler.admit()
        assert self.scheduler.running == was_running + admitted
        assert num_waiting == len(admitted) + len(self.scheduler.waiting)
        assert bool(self.scheduler.running) == self.scheduler.has_unfinished, "everybody waits and nobody runs"
        assert (
            self.scheduler.num_rows <= self.scheduler.row_cap or not admitted or was_running + admitted == admitted[:1]
        )
        self.started += [one.id for one in admitted if one.id not in self.started]
        for one in admitted:
            assert (one.step, one.num_rows) == (0, one.num_positions * one.num_streams)
        if self.scheduler.waiting and len(self.scheduler.running) < self.max_batch_size:
            first = self.scheduler.waiting[0]
            fits_rows = self.scheduler.num_rows + first.num_rows <= self.scheduler.row_cap
            assert not fits_rows or self.pool.largest_free < first.num_positions * first.num_streams

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        for one in self.scheduler.running:
            one.active_rows.append(one.num_next)
            # In a refresh rows rise again.
            most = one.num_next if one.lock.refresh is None else one.num_positions
            one.num_next = data.draw(st.integers(0, most))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def finish_or_abort(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.alive))
        self.alive.remove(gone)
        self.scheduler.release(gone)
        assert (gone.slot, gone.kv_starts) == (None, ())

    @rule()
    def run_out_of_memory(self) -> None:
        was_running, num_rows = list(self.scheduler.running), self.scheduler.num_rows
        row_cap = self.scheduler.row_cap
        sent_back = self.scheduler.shrink()
        if len(was_running) <= 1:
            assert sent_back == []
            assert (self.scheduler.running, self.scheduler.row_cap) == (was_running, row_cap)
            return
        assert sent_back == was_running == list(self.scheduler.waiting)[: len(was_running)]
        assert not self.scheduler.running
        assert self.scheduler.row_cap == max(1, num_rows // 2)
        assert all(one.step == 0 and not one.active_rows for one in sent_back)

    @invariant()
    def nothing_is_lost_and_nobody_overtakes(self) -> None:
        assert self.scheduler.running + list(self.scheduler.waiting) == self.alive
        assert self.started == sorted(self.started)

    @invariant()
    def slots_are_unique(self) -> None:
        slots = [one.slot for one in self.scheduler.running]
        assert len(set(slots)) == len(slots) <= self.max_batch_size
        assert set(slots) <= set(range(self.max_batch_size))
        assert all(one.slot is None and one.kv_starts == () for one in self.scheduler.waiting)

    @invariant()
    def ranges_are_disjoint(self) -> None:
        running = self.scheduler.running
        assert all(len(one.kv_starts) == one.num_streams for one in running)
        ranges = sorted((start, start + one.num_positions) for one in running for start in one.kv_starts)
        assert all(stop <= start for (_, stop), (start, _) in pairwise([(0, 1), *ranges]))
        assert ranges == [] or ranges[-1][1] <= self.pool.capacity
        assert self.pool.num_free == self.num_positions - sum(stop - start for start, stop in ranges)

    @invariant()
    def rows_are_within_the_budget(self) -> None:
        assert self.scheduler.row_cap <= self.max_rows
        rows = sum(one.num_next * one.num_streams for one in self.scheduler.running)
        assert rows <= self.scheduler.num_rows
        assert self.scheduler.num_rows <= self.max_rows or len(self.scheduler.running) == 1

    def teardown(self) -> None:
        while self.scheduler.has_unfinished:
            self.admit()
            first = self.scheduler.running[0]
            self.alive.remove(first)
            self.scheduler.release(first)
        assert not self.alive
        assert self.pool.num_free == self.pool.largest_free == self.num_positions
        fresh = [request(number, 1) for number in range(self.max_batch_size)]
        for one in fresh:
            self.scheduler.add(one)
        while self.scheduler.waiting:
            self.scheduler.admit()
            for one in self.scheduler.running:
                one.num_next = 0
        assert [one.slot for one in fresh] == list(range(self.max_batch_size))


TestBatch = Batch.TestCase
TestBatch.settings = settings(max_examples=60, stateful_step_count=30)


def test_the_lowest_free_slot_is_taken_first() -> None:
    batch = scheduler()
    first, second, third, fourth = add(batch, 5, 5, 5, 5)
    batch.admit()
    assert [one.slot for one in (first, second, third, fourth)] == [0, 1, 2, 3]
    batch.release(third)
    batch.release(first)
    late, later = add(batch, 5, 5)
    batch.admit()
    assert (late.slot, later.slot) == (0, 2)


def test_what_locking_frees_the_next_request_uses() -> None:
    batch = scheduler(max_rows=100)
    first, second, third = add(batch, 60, 60, 10)
    assert batch.admit() == [first]
    first.num_next = 41
    assert batch.admit() == []
    first.num_next = 40
    # The third would have fitted all the time, but nobody overtakes.
    assert batch.admit() == [second]
    batch.release(first)
    assert batch.admit() == [third]


def test_a_request_that_refreshes_keeps_room_for_its_whole_canvas() -> None:
    batch = scheduler(max_rows=100)
    first, second = request(0, 60, refresh=6), request(1, 60)
    batch.add(first)
    batch.add(second)
    assert batch.admit() == [first]
    first.num_next = 10
    assert batch.admit() == []
    batch.release(first)
    assert batch.admit() == [second]


def test_a_request_above_the_budget_runs_alone() -> None:
    batch = scheduler(max_rows=10)
    small, large, last = add(batch, 4, 30, 4)
    assert batch.admit() == [small]
    assert batch.admit() == []
    batch.release(small)
    assert batch.admit() == [large]
    assert batch.admit() == []
    large.num_next = 6
    assert batch.admit() == [last]


def test_guidance_needs_two_ranges_or_takes_none() -> None:
    batch = Scheduler(8, 100, PositionPool(1 + 25))
    pool_of = batch._pool
    guided, other = request(0, 10, guided=True), request(1, 10, guided=True)
    batch.add(guided)
    batch.add(other)
    assert batch.admit() == [guided]
    assert guided.kv_starts == (1, 11)
    assert guided.num_rows == 20
    assert pool_of.num_free == 5
    batch.release(guided)
    pool_of.take(14)
    assert batch.admit() == []
    assert (pool_of.num_free, pool_of.largest_free) == (11, 11)


def test_out_of_memory_sends_everybody_back_in_order_and_half_the_rows_start_again() -> None:
    batch = scheduler()
    requests = add(batch, 20, 20, 20, 20, 20)
    batch.admit()
    for one in requests[:4]:
        one.active_rows.append(20)
    requests[0].num_next = requests[1].num_next = 10
    assert batch.shrink() == requests
    assert (batch.running, list(batch.waiting)) == ([], requests)
    assert [one.step for one in requests] == [0] * 5
    # Half of 80 rows.
    assert batch.row_cap == 40
    assert batch.admit() == requests[:2]
    assert batch.admit() == []


def test_memory_that_runs_out_again_and_again_leaves_one_request_at_a_time() -> None:
    batch = scheduler()
    requests = add(batch, *[10] * 8)
    num_running = []
    while batch.admit() and batch.shrink():
        num_running.append(batch.row_cap // 10)
    assert num_running == [4, 2, 1]
    assert batch.running == requests[:1]


def test_a_single_request_cannot_be_shrunk() -> None:
    batch = scheduler()
    assert batch.shrink() == []
    (only,) = add(batch, 20)
    batch.admit()
    only.active_rows += [20, 20]
    assert batch.shrink() == []
    assert (batch.running, only.step, batch.row_cap) == ([only], 2, 100)


def test_the_row_cap_is_raised_again() -> None:
    batch = scheduler(max_rows=100)
    keeps_running, other = add(batch, 20, 20)
    batch.admit()
    assert batch.shrink() == [keeps_running, other]
    assert batch.row_cap == 20
    assert batch.admit() == [keeps_running]
    batch.release(other)
    keeps_running.num_next = 10
    for number in range(NUM_ADMISSIONS_BEFORE_RAISE - 1):
        assert batch.row_cap == 20
        passing = request(number, 10)
        batch.add(passing)
        assert batch.admit() == [passing]
        batch.release(passing)
    assert batch.row_cap == 40
    batch.release(keeps_running)
    assert batch.admit() == []
    assert batch.row_cap == 40
    add(batch, 90)
    batch.admit()
    assert batch.row_cap == 80
    batch.release(batch.running[0])
    add(batch, 90)
    batch.admit()
    assert batch.row_cap == 100


def test_release_of_a_request_that_is_not_here() -> None:
    batch = scheduler()
    (one,) = add(batch, 5)
    batch.release(one)
    with pytest.raises(ValueError, match="not in deque"):
        batch.release(one)
    assert not batch.has_unfinished
