"""Signals that end a server: which they are, and what they do before it answers."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Final, NoReturn

from surelock.server.log import flush_log

Handler = Callable[[int, FrameType | None], object]

# There is none on Windows.
_HANGUP: Final = getattr(signal, "SIGHUP", None)
_log = logging.getLogger("surelock.server")


def begins_drain(number: int, *, is_draining: bool) -> bool:
    """Take in a signal of a server that answers: the first begins the drain, another one ends the process."""
    if not is_draining:
        _log.info("%s: draining; the same signal again ends at once", signal.Signals(number).name)
        return True
    # The kernel and the shell both tell of a closed terminal, so this may be the same one.
    if number != _HANGUP:
        flush_log()
        # Nothing of the engine is worth waiting for: a step can take long.
        os._exit(128 + number)
    return False


@contextmanager
def handling(handler: Handler, *, is_interrupted: bool = True) -> Iterator[None]:
    """Give SIGTERM, SIGHUP and (is_interrupted) SIGINT to a handler; nothing happens outside of the main thread.

    SIGHUP is left alone where `nohup` has turned it off.
    """
    numbers = [signal.SIGTERM]
    if is_interrupted:
        numbers.append(signal.SIGINT)
    if _HANGUP is not None and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
        numbers.append(_HANGUP)
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers} if is_main else {}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def stop_before_start(number: int, frame: FrameType | None = None) -> NoReturn:
    """End a server that does not answer yet: a drain with nothing to finish. Ctrl-C is told as by every command."""
    _log.info("%s: stopped before the start", signal.Signals(number).name)
    flush_log()
    # What loads or warms up is not worth waiting for.
    os._exit(128 + number if number == signal.SIGINT else 0)


def stopping_while_loading() -> AbstractContextManager[None]:
    """Let signals end this process in order. The first process of a container hears none that has no handler."""
    return handling(stop_before_start, is_interrupted=False)
