"""Answers that keep their places in the queue until the client has taken them: JSON, and server-sent events."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, suppress
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from surelock.server.errors import ApiError, dump_json, internal_error
from surelock.server.formats import CompletionFormat, Piece
from surelock.server.generation import Generation
from surelock.server.log import log_failure
from surelock.server.schemas import GenerationRequest
from surelock.server.service import Service

PING: Final = b": ping\n\n"
DONE: Final = b"data: [DONE]\n\n"
_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would collect the events otherwise.
    (b"x-accel-buffering", b"no"),
)
# The connection waits between two pieces while its buffer is full, and a slow reader that goes on reading is seen to.
_PIECE: Final = 64 << 10
_log = logging.getLogger("surelock.server")


class Answer(Response):
    """Sends JSON piece by piece, so that what a client does not read waits here and not in the connection's buffer.

    Args:
        body: the JSON.
        held: what is released once all of it is sent, such as places in the queue.
    """

    def __init__(self, body: bytes, held: ExitStack) -> None:
        super().__init__(body, media_type="application/json")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a connection that was closed takes the rest at once."""
        with self._held:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for start in range(0, len(self.body), _PIECE):
                piece = self.body[start : start + _PIECE]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def event(value: Mapping[str, Any]) -> bytes:
    """One event. JSON has no raw line breaks, so no text can end it early."""
    return b"data: " + dump_json(value) + b"\n\n"


class EventStream(Response):
    """Sends the pieces of a generation, and closes it whatever happens.

    Args:
        held: what is released at the end, such as places in the queue.
    """

    def __init__(
        self,
        service: Service,
        request: GenerationRequest,
        generation: Generation,
        format: CompletionFormat,
        held: ExitStack,
    ) -> None:
        super().__init__()
        self._service = service
        self._request = request
        self._generation = generation
        self._format = format
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all, or as much as the client wants."""
        with self._held:
            try:
                # An error of the generation is an event; a client that has gone is told nothing.
                with suppress(ApiError):
                    await self._service.unless_gone(receive, self._send(send))
            finally:
                await self._generation.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        async for data in self._events():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncGenerator[bytes, None]:
        pieces = self._generation.pieces()
        try:
            async for piece in pieces:
                if piece is None:
                    yield PING
                elif isinstance(piece, Piece):
                    yield event(self._format.chunk(piece))
                elif self._request.stream_options.include_usage:
                    yield event(self._format.usage_chunk(piece))
        except ApiError as error:
            yield event(error.envelope())
        except Exception as error:
            log_failure(_log, "a stream", error)
            yield event(internal_error().envelope())
        finally:
            await pieces.aclose()
        if self._format.has_done:
            yield DONE
