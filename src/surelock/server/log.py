"""Lines of the log. What a client sent is never in one, except as a fixed word."""

from __future__ import annotations

import logging
import traceback
from typing import Final

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


def log_failure(log: logging.Logger, what: str, error: BaseException) -> None:
    """Kind and place of our own mistake. Its message may quote a prompt, so it stays out."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames[-8:]))
    log.error("%s failed: %s at %s", what, type(error).__name__, places)


def known_method(method: str) -> str:
    """The method if it is one of HTTP's."""
    return method if method in METHODS else "other"
