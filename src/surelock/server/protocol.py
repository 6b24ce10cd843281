"""`GuardedProtocol`: uvicorn's HTTP/1.1 with the limits it lacks, on connections, headers, time and stuck readers."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from surelock.server.errors import ApiError
from surelock.server.settings import ServerSettings


class GuardedProtocol(H11Protocol):
    """One connection. `guarded_protocol` makes the class for some settings."""

    settings: ClassVar[ServerSettings]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one connection too many; give the others some time to send their headers."""
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            self._refuse(ApiError(503, "too_many_connections", "too many connections are open", headers=_RETRY))
            return
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        _cancel(self._header_timer)
        self._header_timer = None
        _cancel(self._write_timer)
        self._write_timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Time the headers from their first byte to their last."""
        if self._is_between_requests:
            self._start_header_timer()
        super().data_received(data)
        if not self._is_between_requests:
            _cancel(self._header_timer)
            self._header_timer = None

    def pause_writing(self) -> None:
        """The client does not read: it may not keep what is written for it in memory for ever."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.settings.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        _cancel(self._write_timer)
        self._write_timer = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Who still sends the body of a request that was answered has as long for it as for headers."""
        if self.conn.their_state is h11.SEND_BODY:
            self._start_header_timer()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """A request that is no HTTP: the envelope, with the status that says why."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        if status == 431:
            self._refuse(ApiError(431, "headers_too_large", "the headers are too large"))
        else:
            self._refuse(ApiError(400, "invalid_http", "this is not a valid HTTP request"))

    @property
    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start_header_timer(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.settings.header_timeout, self._on_slow_headers)

    def _on_slow_headers(self) -> None:
        self._header_timer = None
        if self._is_between_requests:
            seconds = self.settings.header_timeout
            self._refuse(ApiError(408, "header_timeout", f"the headers did not arrive within {seconds:g} s"))

    def _refuse(self, error: ApiError) -> None:
        """Answer by hand and hang up."""
        if self.transport.is_closing():
            return
        body = error.body()
        headers = [*error.headers.items(), ("Content-Type", "application/json"), ("Connection", "close")]
        lines = [f"HTTP/1.1 {error.status} {error.code}", *(f"{name}: {value}" for name, value in headers)]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        self.transport.write(head.encode() + body)
        self.transport.close()


def guarded_protocol(settings: ServerSettings) -> type[GuardedProtocol]:
    """The class of connections under these settings: uvicorn makes the objects itself."""
    return type("GuardedProtocol", (GuardedProtocol,), {"settings": settings})


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


_RETRY = {"Retry-After": "1"}
