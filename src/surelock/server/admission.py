"""Admission of a bounded number of choices, decided before anything of a prompt is looked at."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from surelock.server.errors import ApiError
from surelock.server.metrics import Metrics

# Weight of the newest request in the mean duration.
_WEIGHT: Final = 0.1
_MAX_RETRY_SECONDS: Final = 60
# How long a body on its way holds a place: a slow sender must not keep others out.
_COMING_SECONDS: Final = 1.0


class Admission:
    """Counts the choices that wait or run. For one event loop.

    Args:
        max_running: choices the engine decodes together.
        max_waiting: choices that may wait beside them.
        max_per_key: choices of one key; None: no limit.
    """

    def __init__(self, max_running: int, max_waiting: int, max_per_key: int | None, metrics: Metrics) -> None:
        self._max_running = max_running
        self._limit = max_running + max_waiting
        self._max_per_key = max_per_key
        self._metrics = metrics
        self._by_key: Counter[str] = Counter()
        self._coming: dict[object, str] = {}
        self._mean_seconds = 1.0
        self.is_draining = False

    @property
    def num_admitted(self) -> int:
        """Choices that wait or run."""
        return self._by_key.total()

    def check(self, num: int, key: str) -> None:
        """Raise ApiError if num more choices of a key have no room: 503, or 429 if the key has too many of them."""
        if self.is_draining:
            raise self._refused(503, "draining", "the server is shutting down: send the request to another one")
        num_taken = self.num_admitted + len(self._coming)
        if num_taken + num > self._limit:
            raise self._refused(503, "queue_full", f"{num_taken} of {self._limit} places are taken: try later")
        if self._max_per_key is None:
            return
        num_of_key = self._by_key[key] + sum(other == key for other in self._coming.values())
        if num_of_key + num > self._max_per_key:
            raise self._refused(
                429, "too_many_requests", f"this key has {num_of_key} of {self._max_per_key} places: try later"
            )

    @contextmanager
    def coming(self, key: str) -> Iterator[None]:
        """Take a place while a body is read, but not for longer than a second, or raise as `check`, also at the end.

        Otherwise all requests of a rush would find the last place free, and be refused only after their bodies.
        """
        self.check(1, key)
        place = object()
        self._coming[place] = key
        timer = asyncio.get_running_loop().call_later(_COMING_SECONDS, self._coming.pop, place, None)
        try:
            yield
        finally:
            timer.cancel()
            self._coming.pop(place, None)
        # A slow body has lost its place, and the server may drain by now: refused before the body is parsed.
        self.check(1, key)

    @contextmanager
    def held(self, num: int, key: str) -> Iterator[None]:
        """Take num places for as long as the block lasts, or raise as `check`."""
        self.check(num, key)
        self._by_key[key] += num
        try:
            yield
        finally:
            self._by_key[key] -= num
            if not self._by_key[key]:
                del self._by_key[key]

    @contextmanager
    def admitted(self, num: int, key: str) -> Iterator[None]:
        """As `held`, for a request from its beginning to its end, whose duration says when others may try again."""
        started = time.monotonic()
        with self.held(num, key):
            try:
                yield
            finally:
                self._mean_seconds += _WEIGHT * (time.monotonic() - started - self._mean_seconds)

    def _refused(self, status: int, code: str, message: str) -> ApiError:
        self._metrics.rejections.labels(code).inc()
        seconds = math.ceil(self._mean_seconds * max(1.0, self.num_admitted / self._max_running))
        return ApiError(status, code, message, headers={"Retry-After": str(min(max(seconds, 1), _MAX_RETRY_SECONDS))})
