"""Ranges of positions: never shared, never lost, never fragmented once given back."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from surelock.engine.position_pool import PositionPool


class Pool(RuleBasedStateMachine):
    """Against a model that remembers every position's owner, one by one."""

    @initialize(reserved=st.integers(0, 3), num=st.integers(0, 40))
    def start(self, reserved: int, num: int) -> None:
        self.pool = PositionPool(reserved + num, reserved=reserved)
        self.reserved = reserved
        self.owner: list[int | None] = [None] * num

    def free_runs(self) -> list[int]:
        """Lengths of the maximal runs of free positions."""
        text = "".join("." if owner is None else "x" for owner in self.owner)
        return [len(run) for run in text.split("x") if run]

    @rule(num=st.integers(1, 15))
    def take(self, num: int) -> None:
        start = self.pool.take(num)
        if start is None:
            assert num > max(self.free_runs(), default=0)
            return
        first = start - self.reserved
        assert first >= 0
        assert self.owner[first : first + num] == [None] * num
        earlier = self.owner[: first + num - 1]
        assert not any(earlier[i : i + num] == [None] * num for i in range(first)), "not the first fit"
        self.owner[first : first + num] = [start] * num

    @precondition(lambda self: any(owner is not None for owner in self.owner))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        start = data.draw(st.sampled_from(sorted({owner for owner in self.owner if owner is not None})))
        self.pool.give_back(start)
        self.owner = [None if owner == start else owner for owner in self.owner]

    @rule(num=st.integers(-5, 10))
    def grow(self, num: int) -> None:
        self.pool.grow(self.pool.capacity + num)
        self.owner += [None] * num

    @invariant()
    def counts_are_exact(self) -> None:
        assert self.pool.capacity == self.reserved + len(self.owner)
        assert self.pool.num_free == self.owner.count(None)
        assert self.pool.largest_free == max(self.free_runs(), default=0)

    def teardown(self) -> None:
        for start in {owner for owner in self.owner if owner is not None}:
            self.pool.give_back(start)
        assert self.pool.num_free == self.pool.largest_free == len(self.owner)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30)


def test_first_fit_and_the_reserved_position() -> None:
    pool = PositionPool(11)
    assert [pool.take(4), pool.take(3), pool.take(4), pool.take(3)] == [1, 5, None, 8]
    pool.give_back(1)
    pool.give_back(8)
    assert (pool.num_free, pool.largest_free) == (7, 4)
    assert [pool.take(5), pool.take(2), pool.take(2), pool.take(2)] == [None, 1, 3, 8]


def test_a_range_is_given_back_once() -> None:
    pool = PositionPool(8)
    start = pool.take(3)
    assert start == 1
    pool.give_back(start)
    for unknown in (start, 2, 0):
        with pytest.raises(KeyError):
            pool.give_back(unknown)
    assert (pool.num_free, pool.largest_free) == (7, 7)
