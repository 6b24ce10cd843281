"""Which positions of the pool of keys and values belong to whom. It keeps numbers only; the tensors are elsewhere."""

from __future__ import annotations

from bisect import bisect_left


class PositionPool:
    """Contiguous ranges of the positions reserved .. capacity - 1, each handed to one owner at a time.

    The free ranges are kept in order and apart: two that touch become one, so what was given back is never fragmented
    by how it was once taken.

    Args:
        capacity: positions, the reserved ones included.
        reserved: positions at the start that are never given out, for the padding rows of a captured graph.
    """

    def __init__(self, capacity: int, *, reserved: int = 1) -> None:
        assert 0 <= reserved <= capacity
        self._reserved = self._capacity = reserved
        self._free_starts: list[int] = []
        self._free_stops: list[int] = []
        self._num_free = 0
        self._num_of: dict[int, int] = {}
        self.grow(capacity)

    @property
    def capacity(self) -> int:
        """Positions, the reserved ones included."""
        return self._capacity

    @property
    def num_free(self) -> int:
        """Positions that are not taken."""
        return self._num_free

    @property
    def largest_free(self) -> int:
        """The largest `num` that `take` has a range for."""
        return max(map(int.__sub__, self._free_stops, self._free_starts), default=0)

    def take(self, num: int) -> int | None:
        """Start of the first range of num >= 1 positions; None if no free range is as long."""
        assert num >= 1
        for index, start in enumerate(self._free_starts):
            left = self._free_stops[index] - start - num
            if left < 0:
                continue
            if left:
                self._free_starts[index] = start + num
            else:
                del self._free_starts[index], self._free_stops[index]
            self._num_free -= num
            self._num_of[start] = num
            return start
        return None

    def give_back(self, start: int) -> None:
        """Free the range that `take` returned as start. KeyError if it is not taken."""
        num = self._num_of.pop(start)
        self._free(start, start + num)

    def grow(self, capacity: int) -> None:
        """Add free positions at the end, up to `capacity`; ranges that are taken stay. Never shrinks."""
        if capacity > self._capacity:
            start, self._capacity = self._capacity, capacity
            self._free(start, capacity)

    def reset(self, capacity: int) -> None:
        """Start over with another capacity; nothing is taken."""
        assert not self._num_of
        self._free_starts.clear()
        self._free_stops.clear()
        self._num_free, self._capacity = 0, self._reserved
        self.grow(capacity)

    def _free(self, start: int, stop: int) -> None:
        self._num_free += stop - start
        index = bisect_left(self._free_starts, start)
        if index < len(self._free_starts) and self._free_starts[index] == stop:
            stop = self._free_stops.pop(index)
            del self._free_starts[index]
        if index > 0 and self._free_stops[index - 1] == start:
            self._free_stops[index - 1] = stop
            return
        self._free_starts.insert(index, start)
        self._free_stops.insert(index, stop)
