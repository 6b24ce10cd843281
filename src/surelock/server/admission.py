"""Who gets in: a bounded number of choices, decided before anything of a prompt is looked at."""

from __future__ import annotations

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
        self._mean_seconds = 1.0
        self.is_draining = False

    @property
    def num_admitted(self) -> int:
        """Choices that wait or run."""
        return self._by_key.total()

    def check(self, num: int, key: str) -> None:
        """Refuse num more choices of a key if there is no room for them.

        Raises:
            ApiError: 503 draining or full, 429 too many of one key; with Retry-After.
        """
        if self.is_draining:
            raise self._refused(503, "draining", "the server is shutting down: send the request to another one")
        if self.num_admitted + num > self._limit:
            raise self._refused(503, "queue_full", f"{self.num_admitted} of {self._limit} places are taken: try later")
        if self._max_per_key is not None and self._by_key[key] + num > self._max_per_key:
            raise self._refused(
                429, "too_many_requests", f"this key has {self._by_key[key]} of {self._max_per_key} places: try later"
            )

    @contextmanager
    def admitted(self, num: int, key: str) -> Iterator[None]:
        """Take num places for as long as the block lasts.

        Raises:
            ApiError: see `check`.
        """
        self.check(num, key)
        self._by_key[key] += num
        started = time.monotonic()
        try:
            yield
        finally:
            self._by_key[key] -= num
            if not self._by_key[key]:
                del self._by_key[key]
            self._mean_seconds += _WEIGHT * (time.monotonic() - started - self._mean_seconds)

    def _refused(self, status: int, code: str, message: str) -> ApiError:
        self._metrics.rejections.labels(code).inc()
        seconds = math.ceil(self._mean_seconds * max(1.0, self.num_admitted / self._max_running))
        return ApiError(status, code, message, headers={"Retry-After": str(min(max(seconds, 1), _MAX_RETRY_SECONDS))})
