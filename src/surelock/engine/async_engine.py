"""`AsyncEngine`: an engine for many callers of an event loop, which never waits for the device."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from surelock.engine.device_thread import DeviceThread, SteppedEngine
from surelock.engine.mailbox import Mailbox, News, Ticket
from surelock.errors import EngineError

if TYPE_CHECKING:
    from surelock.engine.snapshot import Snapshot
    from surelock.params import SamplingParams


class AsyncEngine:
    """Decodes requests that come and go, each followed by its own async iterator.

    One thread owns the device and steps all requests together. An error of one request is raised to that caller only.
    An error of the engine ends every request with it; the next request gets a new engine if there is a function that
    makes one. To be used from one event loop at a time; `async with` closes it.

    Args:
        engine: an `Engine` for its use alone, or a function that makes one: for the first request, and again
            after an error.
    """

    def __init__(self, engine: SteppedEngine | Callable[[], SteppedEngine]) -> None:
        self._mailbox: Mailbox | None = None
        self._is_closed = False
        self._thread = DeviceThread(None, engine) if callable(engine) else DeviceThread(engine, None)
        # The thread does not know this object, so it ends with it even if it is never closed.
        weakref.finalize(self, self._thread.close, drain=False).atexit = False

    @property
    def num_waiting(self) -> int:
        """Accepted requests that have not started."""
        return self._thread.num_waiting

    @property
    def num_running(self) -> int:
        """Requests decoded at this moment."""
        return self._thread.num_running

    @property
    def num_restarts(self) -> int:
        """Engines made because one stopped at an error."""
        return self._thread.num_restarts

    @property
    def is_stopped(self) -> bool:
        """Whether the device thread has ended, so that no request will ever be answered."""
        return self._thread.stopped.done()

    @property
    def heartbeat(self) -> float:
        """`time.monotonic()` when the device thread last ended a step, or last looked for one: every second if idle."""
        return self._thread.heartbeat

    async def add_request(
        self, canvas_ids: Sequence[int | None], params: SamplingParams, *, watched: bool = True
    ) -> RequestStream:
        """Queue a canvas; returns once the engine has accepted it, within a step.

        Args:
            canvas_ids: the prompt part of the canvas, None where masked; params.max_tokens masks follow.
            params: of this request.
            watched: give a snapshot of every step, not only of the last.

        Raises:
            ParameterError, PromptError: see `Engine.add_request`.
            EngineError: closed, or stopped at an error with no function that makes a new engine.
        """
        if self._is_closed or self.is_stopped:
            raise EngineError("this AsyncEngine is closed: make a new one")
        ticket = Ticket(tuple(canvas_ids), params, watched, self._mailbox_here())
        self._thread.submit(ticket)
        stream = RequestStream(self, self._thread, ticket)
        await stream.accepted()
        return stream

    async def generate(self, canvas_ids: Sequence[int | None], params: SamplingParams) -> Snapshot:
        """The snapshot of a request's last step. Arguments and errors as in `add_request`."""
        async with await self.add_request(canvas_ids, params, watched=False) as snapshots:
            return await anext(snapshots)

    async def aclose(self, *, drain: bool = True) -> None:
        """Accept nothing more and stop the thread, once accepted requests are finished (drain) or dropped.

        Dropped requests end with EngineError. A second call waits for the first, or drops what that one would finish.
        """
        self._is_closed = True
        self._thread.close(drain=drain)
        # Shielded: whoever stops waiting does not stop the thread from saying that it has ended.
        await asyncio.shield(asyncio.wrap_future(self._thread.stopped))
        self._thread.join()

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; finish what was accepted unless an error leaves the block."""
        await self.aclose(drain=kind is None)

    def _mailbox_here(self) -> Mailbox:
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = Mailbox(loop)
        return self._mailbox


class RequestStream:
    """Async iterator over one request's snapshots; made by `AsyncEngine.add_request`.

    A reader that is slower than the engine gets the newest snapshot only, whose `committed`, `locked` and `kl` are of
    its own step, and always the last one. A request that had to start again because memory ran out goes back to step
    1. Cancelling a wait for the next snapshot, `aclose`, leaving `async with` and dropping the object abort the
    request before the next step.

    Iterating raises:
        NonFiniteLogitsError: the model's output was not finite for this request.
        EngineError, OutOfMemoryError: the engine stopped at an error, or was closed.
    """

    def __init__(self, engine: AsyncEngine, thread: DeviceThread, ticket: Ticket) -> None:
        # Keeps the engine running for as long as this is read.
        self._engine = engine
        self._ticket = ticket
        self._abort = weakref.finalize(self, thread.abort, ticket)
        self._abort.atexit = False

    async def accepted(self) -> None:
        """Wait until the engine has the request; raises what it was refused with."""
        news = await self._or_abort(self._ticket.wait())
        if news.error is not None:
            await anext(self)

    async def aclose(self) -> None:
        """Abort the request unless it has finished. No further snapshots come, not even to another task that waits."""
        self._ticket.close()
        self._abort()

    async def __aenter__(self) -> RequestStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> RequestStream:
        return self

    async def __anext__(self) -> Snapshot:
        while True:
            news = await self._or_abort(self._ticket.read())
            if news.is_over:
                self._abort.detach()
            if news.error is not None:
                raise news.error
            if news.snapshot is not None:
                return news.snapshot
            if news.is_over:
                raise StopAsyncIteration

    async def _or_abort(self, waiting: Coroutine[None, None, News]) -> News:
        try:
            return await waiting
        except asyncio.CancelledError:
            await self.aclose()
            raise
