"""`GuardedProtocol`: uvicorn's HTTP/1.1 with the limits it lacks, on connections, headers, time and stuck readers."""

from __future__ import annotations

import asyncio
import sys
from http import HTTPStatus
from typing import Any, ClassVar, Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from surelock.server.errors import ApiError
from surelock.server.lingering import LingeringTransport
from surelock.server.settings import ServerSettings

# A reader that takes less in `write_timeout` is stuck. The buffer counts as full until it is below this.
_MIN_PROGRESS: Final = 16 << 10
VERSIONS: Final = frozenset({b"1.0", b"1.1"})
# Beside its size, and the size of what is in a buffer.
_CHUNK_FRAME: Final = len(b"ffffffff\r\n\r\n")
_UNFINISHED_SLACK: Final = 4096


class Connection(h11.Connection):
    """The server's side of a connection.

    Beyond h11: other versions than 1.0 and 1.1 are refused, and a request with two lengths; what frames a chunked body
    (extensions, trailers) has the limits of headers.
    """

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=settings.max_headers + _UNFINISHED_SLACK)
        self._settings = settings
        # Bytes received for a body that were neither data of it nor a plain frame around a chunk.
        self._num_framing = 0

    def receive_data(self, data: bytes) -> None:
        """See `h11.Connection.receive_data`."""
        self._num_framing += len(data)
        super().receive_data(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """See `h11.Connection.next_event`; RemoteProtocolError also for a request that breaks the limits above."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._check_head(event)
            self._num_framing = len(self.trailing_data[0])
        elif isinstance(event, h11.Data):
            self._num_framing -= len(event.data) + (_CHUNK_FRAME if event.chunk_start else 0)
        elif isinstance(event, h11.EndOfMessage):
            self._check_framing(len(event.headers), self._num_framing - len(self.trailing_data[0]))
        elif event is h11.NEED_DATA and self.their_state is h11.SEND_BODY:
            self._check_framing(0, self._num_framing)
        return event

    def _check_head(self, request: h11.Request) -> None:
        if request.http_version not in VERSIONS:
            raise h11.RemoteProtocolError("the version is not 1.0 or 1.1", error_status_hint=505)
        # A proxy in front may have believed the other one (RFC 9112, 6.1).
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in request.headers}:
            raise h11.RemoteProtocolError("Content-Length and Transfer-Encoding are both given")

    def _check_framing(self, num_trailers: int, num_bytes: int) -> None:
        if num_trailers > self._settings.num_headers or num_bytes > self._settings.max_headers:
            raise h11.RemoteProtocolError("chunk extensions and trailers are too large", error_status_hint=431)


class GuardedProtocol(H11Protocol):
    """One connection. `guarded_protocol` makes the class for some settings."""

    settings: ClassVar[ServerSettings]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = Connection(self.settings)
        self._lingering: LingeringTransport
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._num_unsent = 0
        # What came after a request and before its answer.
        self._early = bytearray()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one connection too many; give the others some time to send their headers."""
        self._lingering = LingeringTransport(transport, self._still_sends)
        super().connection_made(cast("asyncio.Transport", self._lingering))
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
        """Time the headers from their first byte to their last. What comes too early waits, within limits."""
        if self._lingering.is_lingering:
            self._lingering.discard(len(data))
            return
        if self._awaits_answer:
            # h11 would have the socket left unread, and then nothing tells that the client goes.
            self._early += data
            if len(self._early) > self.settings.max_headers:
                self.transport.abort()
            return
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            # Old clients send a line break after a body (RFC 9112, 2.2).
            data = data.lstrip(b"\r\n")
            if not data:
                return
        if self._is_between_requests:
            if self.conn.their_state is h11.SEND_BODY:
                self._lingering.discard(len(data))
            self._start_header_timer()
        super().data_received(data)
        if not self._is_between_requests:
            _cancel(self._header_timer)
            self._header_timer = None

    def handle_events(self) -> None:
        """Go on reading: h11 wants to pause where the next request has come early."""
        super().handle_events()
        if self._awaits_answer:
            self.flow.resume_reading()

    def shutdown(self) -> None:
        """Wait for an answer that is on its way, and for nothing else."""
        if self._lingering.is_lingering:
            self._lingering.finish()
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        """The client does not read: it may not keep what is written for it in memory for ever."""
        super().pause_writing()
        if self._write_timer is None:
            self._start_write_timer()

    def resume_writing(self) -> None:
        """It reads again."""
        _cancel(self._write_timer)
        self._write_timer = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        """A client that still sends the body of a request that was answered has as long for it as for headers."""
        self._lingering.begin_answer()
        if self.conn.their_state is h11.SEND_BODY:
            self._start_header_timer()
        super().on_response_complete()
        early, self._early = bytes(self._early), bytearray()
        if early and not self.transport.is_closing():
            self.data_received(early)

    def send_400_response(self, msg: str) -> None:
        """A request that is no HTTP: the envelope, with the status that says why."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._refuse(_REFUSALS.get(status, _NOT_HTTP))

    def _unsupported_upgrade_warning(self) -> None:
        """uvicorn's advice to install a library for WebSockets is wrong here: there are none."""

    @property
    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def _awaits_answer(self) -> bool:
        """Whether a whole request is here and its answer is not complete."""
        return not self._is_between_requests and not self.cycle.more_body

    def _still_sends(self) -> bool:
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def _start_header_timer(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.settings.header_timeout, self._on_slow_headers)

    def _on_slow_headers(self) -> None:
        self._header_timer = None
        if self._lingering.is_lingering or (self._is_between_requests and self._still_sends()):
            # It has its answer already.
            self._lingering.finish()
        elif self._is_between_requests:
            seconds = self.settings.header_timeout
            self._refuse(ApiError(408, "header_timeout", f"the headers did not arrive within {seconds:g} s"))

    def _start_write_timer(self) -> None:
        self._num_unsent = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self.settings.write_timeout, self._on_slow_reader)

    def _on_slow_reader(self) -> None:
        if self._num_unsent - self.transport.get_write_buffer_size() < _MIN_PROGRESS:
            self._write_timer = None
            self.transport.abort()
        else:
            self._start_write_timer()

    def _refuse(self, error: ApiError) -> None:
        """Answer by hand and hang up."""
        if self.transport.is_closing():
            return
        if not self._is_between_requests:
            if self.cycle.response_started:
                self.transport.abort()
                return
            # It is answered here.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = error.body()
        headers = [*error.headers.items(), ("Content-Type", "application/json"), ("Connection", "close")]
        lines = [
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
            *(f"{name}: {value}" for name, value in headers),
        ]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        self.transport.write(head.encode() + body)
        self.transport.close()
        if self._lingering.is_lingering:
            self._start_header_timer()


def guarded_protocol(settings: ServerSettings) -> type[GuardedProtocol]:
    """The class of connections under these settings: uvicorn makes the objects itself."""
    return type("GuardedProtocol", (GuardedProtocol,), {"settings": settings})


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


_RETRY = {"Retry-After": "1"}
_NOT_HTTP: Final = ApiError(400, "invalid_http", "this is not a valid HTTP request")
_REFUSALS: Final = {
    431: ApiError(431, "headers_too_large", "the headers, or what frames the body's chunks, are too large"),
    505: ApiError(505, "http_version", "the version is none of HTTP/1.0 and HTTP/1.1"),
}
