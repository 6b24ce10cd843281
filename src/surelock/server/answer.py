"""A JSON answer that keeps its places in the queue until the client has taken it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

# The connection waits between two pieces while its buffer is full, and a slow reader that goes on reading is seen to.
_PIECE: Final = 64 << 10


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
