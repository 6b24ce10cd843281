"""The one thread that owns the device and the engine: it takes requests, steps, and tells what became of them."""

from __future__ import annotations

import atexit
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from copy import copy
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, Protocol

from surelock.engine.mailbox import News, Ticket
from surelock.errors import EngineError, NonFiniteLogitsError, SureLockError, shown_error

if TYPE_CHECKING:
    from surelock.engine.request import Request
    from surelock.engine.snapshot import Snapshot
    from surelock.params import SamplingParams

# Between two heartbeats of a thread that has nothing to do.
IDLE_SECONDS: Final = 1.0
# How long the interpreter waits at its exit for a step to end.
EXIT_SECONDS: Final = 10.0


class SteppedEngine(Protocol):
    """What is asked of an `Engine`."""

    @property
    def has_unfinished(self) -> bool:
        """Whether `step` has anything left to do or to tell."""
        ...

    def add_request(self, canvas_ids: Sequence[int | None], params: SamplingParams) -> Request:
        """See `Engine.add_request`."""
        ...

    def abort_request(self, request: Request) -> None:
        """See `Engine.abort_request`."""
        ...

    def step(self, *, watched: bool = True) -> list[Snapshot]:
        """See `Engine.step`."""
        ...


class DeviceThread:
    """Runs an engine until it is closed. Every method is for other threads and returns at once.

    A thread of its own rather than one of a pool: a CUDA context, captured graphs and an `Engine` want one thread. It
    is a daemon, stopped by `atexit`, so that a program that forgets to close it does not hang.

    Args:
        engine: to run, or None to make one for the first request.
        make_engine: makes the next engine after one has stopped at an error; None: there is no next one.
    """

    def __init__(self, engine: SteppedEngine | None, make_engine: Callable[[], SteppedEngine] | None) -> None:
        self._engine = engine
        self._make_engine = make_engine
        # What others ask for. Unlike a lock, it may be used while the garbage collector runs.
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._tickets: dict[Request, Ticket] = {}
        self._is_closing = False
        self._error: BaseException | None = None
        self._num_submitted = 0
        # (submitted ones taken so far, waiting in the engine, running), replaced as a whole.
        self._counts = (0, 0, 0)
        self.num_restarts = 0
        self.heartbeat = time.monotonic()
        self.stopped: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="surelock-device", daemon=True)
        atexit.register(self._stop_at_exit)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Requests submitted that neither run nor are over."""
        num_taken, num_waiting, _ = self._counts
        return self._num_submitted - num_taken + num_waiting

    @property
    def num_running(self) -> int:
        """Requests in the batch."""
        return self._counts[2]

    def submit(self, ticket: Ticket) -> None:
        """Add a request before the next step. Its first news says whether it was accepted."""
        self._num_submitted += 1
        self._inbox.put(partial(self._add, ticket))

    def abort(self, ticket: Ticket) -> None:
        """Drop a request before the next step; one that is over is ignored."""
        self._inbox.put(partial(self._abort, ticket))

    def close(self, *, drain: bool) -> None:
        """Accept nothing more; finish what was accepted, or drop it. `stopped` is set at the end."""
        self._inbox.put(partial(self._close, drain))

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while not (self._is_closing and not self._tickets and not self._is_busy):
                self._obey()
                self._step()
                self.heartbeat = time.monotonic()
        except BaseException as error:
            # Our own mistake. No request may be left waiting for a thread that is gone.
            self._fail(error)
            self._make_engine = None
        finally:
            self._is_closing = True
            self._engine = None
            atexit.unregister(self._stop_at_exit)
            self._obey()
            self.stopped.set_result(None)

    @property
    def _is_busy(self) -> bool:
        return self._engine is not None and self._engine.has_unfinished

    def _obey(self) -> None:
        """Do what was asked for; with nothing else to do, wait a while for a request."""
        is_idle = not (self._is_closing or self._is_busy)
        try:
            while True:
                self._inbox.get(block=is_idle, timeout=IDLE_SECONDS if is_idle else None)()
                is_idle = False
        except Empty:
            pass
        self._count()

    def _step(self) -> None:
        # Not a variable: an error would keep this frame, and with it the engine.
        if self._engine is None or not self._engine.has_unfinished:
            return
        try:
            snapshots = self._engine.step(watched=any(ticket.watched for ticket in self._tickets.values()))
        except BaseException as error:
            self._fail(error)
            return
        for snapshot in snapshots:
            self._publish(snapshot)
        self._count()
        if self._tickets and not self._is_busy:
            self._fail(EngineError(f"the engine lost {len(self._tickets)} requests that were not finished"))

    def _publish(self, snapshot: Snapshot) -> None:
        request = snapshot.request
        # None: aborted while its step was under way.
        ticket = self._tickets.get(request)
        if ticket is None:
            return
        if not request.is_finished:
            if ticket.watched:
                self._tell(ticket, News(snapshot))
            return
        del self._tickets[request]
        error = _failure(request) if request.failed else None
        self._tell(ticket, News(None if request.failed else snapshot, is_over=True, error=error))

    def _add(self, ticket: Ticket) -> None:
        num_taken, num_waiting, num_running = self._counts
        self._counts = (num_taken + 1, num_waiting, num_running)
        try:
            request = self._engine_for_requests().add_request(ticket.canvas_ids, ticket.params)
        except Exception as error:
            self._tell(ticket, News(is_over=True, error=error))
            return
        self._tickets[request] = ticket
        self._tell(ticket, News())

    def _engine_for_requests(self) -> SteppedEngine:
        if self._is_closing:
            raise EngineError("this engine is closed: make a new one")
        if self._engine is not None:
            return self._engine
        if self._make_engine is None:
            assert self._error is not None
            raise EngineError(
                f"this engine stopped at an earlier error ({shown_error(self._error)}): make a new one, or give "
                "AsyncEngine a function that does"
            )
        try:
            self._engine = self._make_engine()
        except SureLockError:
            raise
        except Exception as error:
            raise EngineError(f"no engine could be made: {shown_error(error)}") from error
        if self._error is not None:
            self.num_restarts += 1
            self._error = None
        return self._engine

    def _abort(self, ticket: Ticket) -> None:
        for request in [request for request, own in self._tickets.items() if own is ticket]:
            self._drop(request)

    def _close(self, drain: bool) -> None:
        self._is_closing = True
        if drain:
            return
        while self._tickets:
            request, ticket = next(iter(self._tickets.items()))
            self._tell(ticket, News(is_over=True, error=EngineError("the engine was closed before this request ended")))
            self._drop(request)

    def _drop(self, request: Request) -> None:
        del self._tickets[request]
        try:
            if self._engine is not None:
                self._engine.abort_request(request)
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End every request with the engine's error, and let go of the engine."""
        self._engine = None
        self._error = error
        _forget_frames(error)
        for ticket in self._tickets.values():
            self._tell(ticket, News(is_over=True, error=_own_error(error)))
        self._tickets.clear()
        self._count()

    def _tell(self, ticket: Ticket, news: News) -> None:
        if not ticket.mailbox.put(ticket, news) and not news.is_over:
            self.abort(ticket)

    def _count(self) -> None:
        num_running = sum(request.slot is not None for request in self._tickets)
        self._counts = (self._counts[0], len(self._tickets) - num_running, num_running)

    def _stop_at_exit(self) -> None:
        # A daemon that is inside a kernel while the interpreter goes away can crash it.
        self.close(drain=False)
        self.join(EXIT_SECONDS)


def _failure(request: Request) -> SureLockError:
    return request.error or NonFiniteLogitsError(
        f"the model's logits were NaN or infinite in step {request.step}: check the weights or use dtype float32"
    )


def _own_error(error: BaseException) -> SureLockError:
    """For one request of many: raising one exception in several tasks would mix their tracebacks."""
    if isinstance(error, SureLockError):
        own = copy(error)
    else:
        own = EngineError(f"the engine stopped at an error ({shown_error(error)})")
    own.__cause__ = error
    return own


def _forget_frames(error: BaseException) -> None:
    """Drop what the frames of an error hold: they would keep the engine's memory for as long as the error is kept."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
