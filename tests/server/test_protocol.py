"""One connection without a socket: what each sequence of bytes, pauses and timers leads to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from surelock.server.lingering import MAX_DISCARDED
from surelock.server.protocol import GuardedProtocol, guarded_protocol
from surelock.server.settings import ServerSettings

POST = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Transport(asyncio.Transport):
    """Remembers what was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_read = True
        self.num_unsent = 0
        self.end: str | None = None

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", self.written)]

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert self.end is None
        self.written += data

    def write_eof(self) -> None:
        self.written += b"EOF"

    def get_write_buffer_size(self) -> int:
        return self.num_unsent

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def is_closing(self) -> bool:
        return self.end is not None

    def close(self) -> None:
        self.end = self.end or "closed"

    def abort(self) -> None:
        self.end = self.end or "aborted"


class Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback

    def cancel(self) -> None:
        self.callback = lambda: None


class Loop:
    """Tasks are the running loop's; timers run when a test says so."""

    def __init__(self) -> None:
        self._timers: list[Timer] = []

    def create_task(self, work: Any, **options: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work, **options)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        self._timers.append(timer)
        return timer

    def let_time_pass(self) -> None:
        timers, self._timers = self._timers, []
        for timer in timers:
            timer.callback()


@dataclass
class Exchange:
    """A connection and the application behind it."""

    protocol: GuardedProtocol
    transport: Transport
    loop: Loop
    events: list[str] = field(default_factory=list)

    async def send(self, data: bytes) -> None:
        """Bytes of the client; as on a socket, none come in while reading is paused."""
        assert self.transport.is_read
        self.protocol.data_received(data)
        await settled()

    async def leave(self) -> None:
        """The client closes, or closes its sending side, which is the same to us; seen only by who reads."""
        assert self.transport.is_read
        # What it returns would keep the socket open.
        keeps_open: object = cast("Any", self.protocol).eof_received()
        assert not keeps_open
        self.protocol.connection_lost(None)
        await settled()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def working(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads a body, then works until the client goes."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers when the body is there."""
    while (await receive()).get("more_body"):
        pass
    await answer(send, 200)


async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, 413, (b"connection", b"close"))


async def answer(send: Send, status: int, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok", "more_body": False})


@contextlib.asynccontextmanager
async def connected(app: ASGIApp, **settings: Any) -> AsyncIterator[Exchange]:
    exchange: Exchange

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        exchange.events.append(f"{scope['method']} {scope['path']}")
        await app(scope, receive, send)
        exchange.events.append("end")

    http = guarded_protocol(ServerSettings(**settings))
    config = uvicorn.Config(noted, http=http, ws="none", lifespan="off", log_config=None, proxy_headers=False)
    state, transport, loop = ServerState(), Transport(), Loop()
    protocol = http(config, state, {}, loop)
    exchange = Exchange(protocol, transport, loop)
    protocol.connection_made(transport)
    try:
        yield exchange
    finally:
        protocol.connection_lost(None)
        await asyncio.gather(*state.tasks)


WHOLE = POST + b"Content-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    "early",
    [[], [b"\r\n"], [b"x"], [WHOLE], [WHOLE, WHOLE[:20]], [b"\r\n"] * 5],
    ids=["nothing", "line break", "byte", "request", "one and a half", "five"],
)
@pytest.mark.parametrize("header", [b"", b"Connection: close\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"])
def test_a_client_that_goes_is_noticed_whatever_it_sent_before(early: list[bytes], header: bytes) -> None:
    async def test() -> None:
        async with connected(working) as own:
            await own.send(POST + header + b"Content-Length: 2\r\n\r\n{}")
            for data in early:
                await own.send(data)
            assert own.events == ["POST /"]
            await own.leave()
            assert own.events == ["POST /", "end"]
            assert own.transport.statuses == []

    asyncio.run(test())


def test_a_client_that_goes_is_noticed_after_a_request_in_the_same_packet() -> None:
    async def test() -> None:
        async with connected(working) as own:
            await own.send(WHOLE + WHOLE)
            await own.leave()
            assert own.events == ["POST /", "end"]

    asyncio.run(test())


def test_early_requests_are_answered_in_order() -> None:
    release = asyncio.Event()

    async def held(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await answering(scope, receive, send)

    async def test() -> None:
        async with connected(held) as own:
            await own.send(WHOLE + WHOLE.replace(b" / ", b" /b "))
            await own.send(b"\r\n" + WHOLE.replace(b" / ", b" /c ")[:30])
            await own.send(WHOLE.replace(b" / ", b" /c ")[30:])
            release.set()
            await settled()
            assert own.events == ["POST /", "end", "POST /b", "end", "POST /c", "end"]
            assert own.transport.statuses == [200] * 3

    asyncio.run(test())


def test_too_much_too_early_ends_the_connection() -> None:
    async def test() -> None:
        async with connected(working, max_headers=1024) as own:
            await own.send(WHOLE)
            for _ in range(16):
                await own.send(b"x" * 64)
            assert own.transport.end is None
            await own.send(b"x")
            assert own.transport.end == "aborted"

    asyncio.run(test())


def test_a_line_break_after_an_answer_is_passed_over() -> None:
    async def test() -> None:
        async with connected(answering) as own:
            await own.send(WHOLE)
            await own.send(b"\r\n")
            await own.send(b"\r\n" + WHOLE)
            assert own.transport.statuses == [200, 200]

    asyncio.run(test())


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", 200),
        (b"GET / HTTP/1.2\r\nHost: localhost\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\nHost: localhost\r\n\r\n", 505),
        (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
        (POST + b"transfer-encoding: chunked\r\nCONTENT-LENGTH: 17\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
        (CHUNKED + b"2;" + b"x" * 1000 + b"\r\n{}\r\n0\r\n\r\n", 200),
        (CHUNKED + b"2;" + b"x" * 1100 + b"\r\n{}\r\n0\r\n\r\n", 431),
        (CHUNKED + b"1;" + b"x" * 600 + b"\r\n{\r\n1;" + b"x" * 600 + b"\r\n}\r\n0\r\n\r\n", 431),
        (CHUNKED + b"2\r\n{}\r\n0\r\nX: " + b"x" * 1000 + b"\r\n\r\n", 200),
        (CHUNKED + b"2\r\n{}\r\n0\r\nX: " + b"x" * 1100 + b"\r\n\r\n", 431),
        (CHUNKED + b"2\r\n{}\r\n0\r\n" + b"X: x\r\n" * 20 + b"\r\n", 200),
        (CHUNKED + b"2\r\n{}\r\n0\r\n" + b"X: x\r\n" * 21 + b"\r\n", 431),
        (CHUNKED + b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n", 200),
    ],
)
@pytest.mark.parametrize("size", [100_000, 100], ids=["in one piece", "in pieces"])
def test_limits_of_what_frames_a_request(request_head: bytes, status: int, size: int) -> None:
    async def test() -> None:
        async with connected(answering, max_headers=1024, num_headers=20) as own:
            for start in range(0, len(request_head), size):
                if own.transport.is_closing():
                    break
                await own.send(request_head[start : start + size])
            assert own.transport.statuses == [status]
            # Nothing that follows is taken for a request, and the application is not left waiting.
            assert status == 200 or own.transport.is_closing() or own.transport.written.endswith(b"EOF")
            assert own.events in ([], ["POST /", "end"], ["GET /", "end"])

    asyncio.run(test())


def test_a_malformed_body_does_not_get_a_second_answer_into_the_first() -> None:
    async def starting(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await working(scope, receive, send)

    async def test() -> None:
        async with connected(starting) as own:
            await own.send(CHUNKED)
            await own.send(b"no chunk\r\n")
            assert own.transport.statuses == [200]
            assert own.transport.end == "aborted"

    asyncio.run(test())


def test_who_sends_all_before_reading_sees_the_refusal() -> None:
    async def test() -> None:
        async with connected(refusing) as own:
            await own.send(POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 400)
            # Closing now would reset the connection, and what is on its way to the client would be lost.
            assert own.transport.statuses == [413]
            assert own.transport.written.endswith(b"okEOF")
            assert own.transport.end is None
            await own.send(b"x" * 600)
            await own.leave()
            assert own.transport.end == "closed"
            assert own.transport.statuses == [413]

    asyncio.run(test())


@pytest.mark.parametrize("keeps_open", [False, True])
def test_a_refused_body_is_read_for_some_bytes_and_some_time(keeps_open: bool) -> None:
    async def refusing_only(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 401)

    async def test(*, is_slow: bool) -> None:
        async with connected(refusing_only if keeps_open else refusing) as own:
            await own.send(POST + b"Content-Length: 99999999999\r\n\r\n")
            part = b"x" * (1 << 20)
            for _ in range(3 if is_slow else MAX_DISCARDED // len(part)):
                await own.send(part)
            assert own.transport.end is None
            if is_slow:
                own.loop.let_time_pass()
            else:
                await own.send(part)
            assert own.transport.end == "closed"
            assert len(own.transport.statuses) == 1

    asyncio.run(test(is_slow=True))
    asyncio.run(test(is_slow=False))


def test_one_that_is_told_while_it_sends_does_not_hold_up_the_end() -> None:
    async def test() -> None:
        async with connected(refusing) as own:
            await own.send(POST + b"Content-Length: 1000\r\n\r\n")
            own.protocol.shutdown()
            assert own.transport.end == "closed"

    asyncio.run(test())


def test_a_slow_reader_is_cut_off_once_it_makes_no_progress() -> None:
    async def test() -> None:
        async with connected(working) as own:
            await own.send(WHOLE)
            own.transport.num_unsent = 9_000_000
            own.protocol.pause_writing()
            for _ in range(100):
                own.transport.num_unsent -= 60_000
                own.loop.let_time_pass()
                assert own.transport.end is None
            own.transport.num_unsent -= 1000
            own.loop.let_time_pass()
            assert own.transport.end == "aborted"

    asyncio.run(test())


def test_a_reader_that_has_caught_up_is_timed_anew() -> None:
    async def test() -> None:
        async with connected(working) as own:
            await own.send(WHOLE)
            for _ in range(3):
                own.transport.num_unsent = 100_000
                own.protocol.pause_writing()
                own.transport.num_unsent = 0
                own.protocol.resume_writing()
                own.loop.let_time_pass()
            assert own.transport.end is None

    asyncio.run(test())


def test_one_connection_too_many_is_closed_at_once() -> None:
    async def test() -> None:
        async with connected(answering, max_connections=1) as own:
            other = Transport()
            type(own.protocol)(own.protocol.config, own.protocol.server_state, {}, own.loop).connection_made(other)
            assert (other.statuses, other.end) == ([503], "closed")
            assert own.transport.end is None

    asyncio.run(test())


def test_no_advice_about_websockets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def test() -> None:
        async with connected(answering) as own:
            await own.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert own.transport.statuses == [200]

    asyncio.run(test())
    assert [record for record in caplog.records if record.name == "uvicorn.error"] == []
