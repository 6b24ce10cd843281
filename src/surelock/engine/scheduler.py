"""Who is in the batch: requests wait in order and take a slot as soon as one is free."""

from __future__ import annotations

from collections import deque

from surelock.engine.request import Request


class Scheduler:
    """First come, first served, up to max_batch_size running requests."""

    def __init__(self, max_batch_size: int) -> None:
        self._free = list(range(max_batch_size - 1, -1, -1))
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    @property
    def has_unfinished(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        """Queue a request."""
        self.waiting.append(request)

    def admit(self) -> list[Request]:
        """Move waiting requests into free slots; returns the ones that now start."""
        admitted = []
        while self.waiting and self._free:
            request = self.waiting.popleft()
            request.slot = self._free.pop()
            self.running.append(request)
            admitted.append(request)
        return admitted

    def release(self, request: Request) -> None:
        """Take a request out of the batch, or out of the queue."""
        if request.slot is None:
            self.waiting.remove(request)
            return
        self.running.remove(request)
        self._free.append(request.slot)
        request.slot = None
