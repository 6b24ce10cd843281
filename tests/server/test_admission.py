"""Places in the queue, and bodies that are on their way to one."""

from __future__ import annotations

import asyncio

import pytest

from surelock.server import admission
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


def test_a_slow_body_does_not_hold_it_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_COMING_SECONDS", 0.01)

    async def slow() -> None:
        own = admission_of()
        with own.coming(""), own.coming(""):
            assert refused_with(own) == "queue_full"
            await asyncio.sleep(0.05)
            assert refused_with(own) is None
            with own.coming(""):
                assert refused_with(own) is None
        assert refused_with(own) is None

    asyncio.run(slow())


def test_a_slow_body_is_refused_at_its_end_if_others_took_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_COMING_SECONDS", 0.01)

    async def slow() -> None:
        own = admission_of()
        body = own.coming("")
        body.__enter__()
        await asyncio.sleep(0.05)
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
