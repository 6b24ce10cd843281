"""The limit of open files: raised, or heeded; and one line a second when there are none left."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from typing import Any, NoReturn

import pytest

from surelock import LLM
from surelock.server.descriptors import BACKLOG, LoopErrors, with_descriptors
from surelock.server.run import Server
from surelock.server.service import Service
from surelock.server.settings import ServerSettings

INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "num"),
    [
        # The usual one of a shell.
        (1024, 524288, 1024 + BACKLOG + 64, 1024),
        (1024, INFINITE, 1024 + BACKLOG + 64, 1024),
        (65536, 65536, 65536, 1024),
        (INFINITE, INFINITE, INFINITE, 1024),
        (1024, 1024, 1024, 960),
        (256, 1024, 1024, 960),
        (256, 2000, 2000, 1024),
        (64, 64, 64, 1),
        (16, 16, 16, 1),
    ],
)
def test_room_for_the_connections(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, soft: int, hard: int, raised: int, num: int
) -> None:
    limits = {"soft": soft}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits["soft"], hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, both: limits.update(soft=both[0]))
    assert with_descriptors(ServerSettings()) == ServerSettings(max_connections=num)
    assert limits["soft"] == raised
    assert len(caplog.records) == (num < 1024)


def test_a_limit_that_cannot_be_raised_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(which: int, both: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 524288))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert with_descriptors(ServerSettings()).max_connections == 192


class Loop:
    """A clock, and what went to asyncio's own handler."""

    def __init__(self) -> None:
        self.now = 0.0
        self.passed_on: list[dict[str, Any]] = []

    def time(self) -> float:
        return self.now

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.passed_on.append(context)


def test_no_descriptors_are_one_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    loop: Any = Loop()
    errors = LoopErrors()
    for second in range(3):
        loop.now = float(second)
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM) * 1000:
            errors(loop, {"message": "no", "exception": OSError(number, "Too many open files"), "socket": object()})
    assert len(caplog.records) == 3
    assert "Too many open files" in caplog.text
    assert all(record.exc_info is None for record in caplog.records)
    assert loop.passed_on == []


def test_other_errors_are_asyncios_affair(caplog: pytest.LogCaptureFixture) -> None:
    loop: Any = Loop()
    contexts: list[dict[str, Any]] = [
        {"message": "a mistake", "exception": ValueError("x")},
        {"message": "a full disk", "exception": OSError(errno.ENOSPC, "x"), "socket": object()},
        {"message": "elsewhere", "exception": OSError(errno.EMFILE, "x")},
        {"message": "nothing known"},
    ]
    for context in contexts:
        LoopErrors()(loop, context)
    assert loop.passed_on == contexts
    assert caplog.records == []


class Exhausted(socket.socket):
    """A listener under which there are no descriptors."""

    def accept(self) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")


def test_the_server_tells_it_once(llm: LLM, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through asyncio's own accepting, which may try, fail and tell as often as the backlog is long."""
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0.02)
    listener = Exhausted()
    listener.bind(("127.0.0.1", 0))
    server = Server(Service(llm, ServerSettings(port=0), warm_up=False))

    async def test() -> None:
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not caplog.records and not serving.done():
            if server.started:
                client.connect_ex(listener.getsockname())
            await asyncio.sleep(0.01)
        server.should_exit = True
        await serving
        # Its last tries meet a closed socket.
        await asyncio.sleep(0.1)

    with socket.socket() as client:
        client.setblocking(False)
        asyncio.run(test())
    assert all(record.name == "surelock.server" and record.exc_info is None for record in caplog.records)
    assert len(caplog.records) < 10
