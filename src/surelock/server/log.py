"""Lines of the log. What a client sent is never in one, except as a fixed word."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections import deque
from typing import Final

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
STDERR: Final = 2
# That may wait to be written.
MAX_LINES: Final = 10_000
_PAUSE_SECONDS: Final = 0.1
_FLUSH_SECONDS: Final = 1.0


def log_failure(log: logging.Logger, what: str, error: BaseException) -> None:
    """Kind and place of our own mistake. Its message may quote a prompt, so it stays out."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames[-8:]))
    log.error("%s failed: %s at %s", what, type(error).__name__, places)


def known_method(method: str) -> str:
    """The method if it is one of HTTP's."""
    return method if method in METHODS else "other"


class BackgroundHandler(logging.Handler):
    """Writes lines from a thread of its own, ten times a second.

    A full disk, a closed pipe and a pipe that is never read cost lines, which are counted, and nothing else. A write
    also lets go of Python's lock, which a busy engine then has for a while: one for each request is too many.

    Args:
        descriptor: of the open file to write to.
    """

    def __init__(self, descriptor: int = STDERR) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: deque[str] = deque()
        self._num_refused = self._num_unwritten = 0
        self._is_writing = False
        self._is_closed = threading.Event()
        threading.Thread(target=self._run, name="surelock-log", daemon=True).start()

    @property
    def num_dropped(self) -> int:
        """Lines that could not be written."""
        return self._num_refused + self._num_unwritten

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line in, or drop it if too many wait."""
        if len(self._lines) >= MAX_LINES:
            self._num_refused += 1
            return
        try:
            line = self.format(record)
        except Exception:
            # logging's own way to tell would write to stderr here and now.
            line = f"the line of {record.filename}:{record.lineno} cannot be made"
        self._lines.append(line + "\n")

    def flush(self) -> None:
        """Wait until everything is written, for a second at most. Takes no lock: a signal's handler may call it."""
        deadline = time.monotonic() + _FLUSH_SECONDS
        while (self._lines or self._is_writing) and time.monotonic() < deadline:
            time.sleep(_FLUSH_SECONDS / 200)

    def close(self) -> None:
        """End the thread; what it has not written yet it still does."""
        self._is_closed.set()
        super().close()

    def _run(self) -> None:
        while not self._is_closed.wait(_PAUSE_SECONDS):
            self._write()
        self._write()

    def _write(self) -> None:
        self._is_writing = True
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        data = "".join(lines).encode("utf-8", "backslashreplace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            self._num_unwritten += data.count(b"\n")
        self._is_writing = False


def log_to_stderr() -> None:
    """Send every line of this process to stderr."""
    handler = BackgroundHandler()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=[handler])
    # Its own lines repeat ours.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def flush_log() -> None:
    """Wait until handlers have written what they have taken in, for a second at most."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def num_dropped_lines() -> int:
    """Lines of this process's log that could not be written."""
    handlers = logging.getLogger().handlers
    return sum(handler.num_dropped for handler in handlers if isinstance(handler, BackgroundHandler))
