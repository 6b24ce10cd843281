"""Lines of the log. What a client sent is never in one, except as a fixed word."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Final, TextIO

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


def log_failure(log: logging.Logger, what: str, error: BaseException) -> None:
    """Kind and place of our own mistake. Its message may quote a prompt, so it stays out."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames[-8:]))
    log.error("%s failed: %s at %s", what, type(error).__name__, places)


def known_method(method: str) -> str:
    """The method if it is one of HTTP's."""
    return method if method in METHODS else "other"


class BatchedHandler(logging.StreamHandler[TextIO]):
    """Writes warnings at once and other lines when it is flushed, which the server does every 0.1 s.

    A write lets go of Python's lock, which a busy engine then has for a while: one for each request is too many.
    """

    def __init__(self) -> None:
        # A buffer of its own: that of sys.stderr is written at every line.
        super().__init__(os.fdopen(sys.stderr.fileno(), "w", buffering=1 << 16, closefd=False))

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line in."""
        if record.levelno >= logging.WARNING:
            super().emit(record)
            return
        try:
            self.stream.write(self.format(record) + self.terminator)
        except Exception:
            self.handleError(record)


def log_to_stderr(*, batched: bool = True) -> None:
    """Send every line of this process to stderr; batched: `flush_log` is called now and then."""
    handler = BatchedHandler() if batched else logging.StreamHandler()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=[handler])
    # Its own lines repeat ours.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def flush_log() -> None:
    """Write what handlers have taken in."""
    for handler in logging.getLogger().handlers:
        handler.flush()
