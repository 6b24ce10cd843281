"""File descriptors: enough of them for the connections, and quiet when there are none."""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Final

from surelock.server.settings import ServerSettings

# Connections that wait to be accepted. asyncio accepts that many at once, before any of them can be refused.
BACKLOG: Final = 2048
# Beside connections: files of the model, libraries, the log, the event loop.
_NUM_OTHERS: Final = 64
_NONE_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# asyncio tries again a second later, as often as it failed, also on a socket that was closed meanwhile.
_LATE_TRY: Final = "Exception in callback BaseSelectorEventLoop._start_serving("
_SECONDS_BETWEEN_LINES: Final = 1.0
_log = logging.getLogger("surelock.server")


def with_descriptors(settings: ServerSettings) -> ServerSettings:
    """Raise this process's soft limit to what the connections need; fewer connections where the hard one is lower."""
    if find_spec("resource") is None:
        return settings
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (sys.maxsize if limit == resource.RLIM_INFINITY else limit for limit in limits)
    wanted = min(settings.max_connections + BACKLOG + _NUM_OTHERS, hard)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, limits[1]))
            soft = wanted
        except (OSError, ValueError):
            # Some systems have a lower limit than they tell.
            pass
    num = max(1, soft - _NUM_OTHERS)
    if num >= settings.max_connections:
        return settings
    _log.warning("at most %d connections, as the limit of open files is %d: raise it (ulimit -n)", num, soft)
    return replace(settings, max_connections=num)


class LoopErrors:
    """An event loop's handler of exceptions: a line a second, not a traceback each, if none can be accepted."""

    def __init__(self) -> None:
        self._told_at: float | None = None

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Tell of one; see `loop.call_exception_handler`."""
        error = context.get("exception")
        if str(context.get("message")).startswith(_LATE_TRY):
            return
        if not isinstance(error, OSError) or error.errno not in _NONE_LEFT or "socket" not in context:
            loop.default_exception_handler(context)
            return
        now = loop.time()
        if self._told_at is None or now - self._told_at >= _SECONDS_BETWEEN_LINES:
            self._told_at = now
            _log.error("a connection cannot be accepted: %s; raise the limit of open files (ulimit -n)", error.strerror)
