"""Places in the queue, and bodies that are on their way to one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial

import pytest

from surelock.server.admission import Admission
from surelock.server.errors import ApiError
from surelock.server.metrics import Metrics


def admission_of(max_running: int = 1, max_waiting: int = 1, max_per_key: int | None = None) -> Admission:
    return Admission(max_running, max_waiting, max_per_key, Metrics("model"))


def refused_with(own: Admission, key: str = "") -> str | None:
    try:
        own.check(1, key)
    except ApiError as error:
        return error.code
    return None


def test_a_body_on_its_way_holds_a_place() -> None:
    async def rush() -> None:
        own = admission_of()
        with own.coming(""), own.coming(""):
            assert refused_with(own) == "queue_full"
            with pytest.raises(ApiError), own.coming(""):
                pass
        with own.admitted(1, ""):
            assert refused_with(own) is None
        assert own.num_admitted == 0

    asyncio.run(rush())


def timers_by_hand(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What the running loop is asked to call later, for the test to call instead."""
    loop, timers = asyncio.get_running_loop(), list[Callable[[], object]]()

    def call_later(seconds: float, callback: Callable[..., object], *arguments: object) -> asyncio.TimerHandle:
        assert seconds == 1.0
        timers.append(partial(callback, *arguments))
        return loop.call_at(math.inf, callback)

    monkeypatch.setattr(loop, "call_later", call_later)
    return timers


def test_a_slow_body_does_not_hold_it_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow() -> None:
        own, timers = admission_of(), timers_by_hand(monkeypatch)
        with own.coming(""), own.coming(""):
            assert refused_with(own) == "queue_full"
            for expire in timers:
                expire()
            assert refused_with(own) is None
            with own.coming(""):
                assert refused_with(own) is None
        assert refused_with(own) is None

    asyncio.run(slow())


def test_a_slow_body_is_refused_at_its_end_if_others_took_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow() -> None:
        own, timers = admission_of(), timers_by_hand(monkeypatch)
        body = own.coming("")
        body.__enter__()
        timers[0]()
        with own.admitted(2, ""), pytest.raises(ApiError, match="places are taken"):
            body.__exit__(None, None, None)
        with pytest.raises(ApiError, match="shutting down"), own.coming(""):
            own.is_draining = True

    asyncio.run(slow())


def test_a_body_on_its_way_counts_for_its_key() -> None:
    async def two() -> None:
        own = admission_of(max_waiting=9, max_per_key=1)
        with own.coming("a"):
            assert refused_with(own, "a") == "too_many_requests"
            assert refused_with(own, "b") is None

    asyncio.run(two())
