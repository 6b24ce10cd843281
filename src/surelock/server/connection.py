"""`Connection`: h11's state of one connection, refusing what h11 lets pass."""

from __future__ import annotations

from typing import Final

import h11

from surelock.server.settings import ServerSettings

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
