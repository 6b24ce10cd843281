"""`LingeringTransport`: an answer is not lost by a client that sends everything before it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

# Of a body that was refused: enough for a client to come to the end of what it has begun.
MAX_DISCARDED: Final = 64 << 20


class LingeringTransport:
    """A connection's transport, which does not close while the client still sends (RFC 9112, 9.6).

    Closing a socket with unread bytes resets it, and the client never sees what was written. So `close` ends our side
    only. What comes then must be given to `discard`, until the client closes or `finish` is called.

    Args:
        transport: what everything else is passed on to.
        still_sends: whether the client has not sent the whole request.
    """

    def __init__(self, transport: asyncio.Transport, still_sends: Callable[[], bool]) -> None:
        self._transport = transport
        self._still_sends = still_sends
        self._num_discarded = 0
        self.is_lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self.is_lingering or self._transport.is_closing()

    def close(self) -> None:
        """Send what was written, then close, at once or when the client has finished."""
        if self.is_closing() or not self._still_sends():
            self.finish()
            return
        self.is_lingering = True
        with suppress(OSError):
            self._transport.write_eof()
        self._transport.resume_reading()

    def finish(self) -> None:
        """Close at once."""
        self._transport.close()

    def discard(self, num_bytes: int) -> None:
        """Count bytes of a request that was answered already, and close if they are too many."""
        self._num_discarded += num_bytes
        if self._num_discarded > MAX_DISCARDED:
            self.finish()

    def begin_answer(self) -> None:
        """Count from zero again."""
        self._num_discarded = 0
