"""`Generation`: the choices of one request on the engine, answered at once or as a stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from surelock.engine.async_engine import RequestStream
from surelock.errors import EngineError, NonFiniteLogitsError, OutOfMemoryError, SureLockError
from surelock.server.errors import ApiError, as_api_error
from surelock.server.formats import Piece
from surelock.server.frames import frames_for
from surelock.server.prepare import Choice
from surelock.server.recorder import RecordedSnapshot
from surelock.server.results import Result, finished
from surelock.server.schemas import GenerationRequest
from surelock.server.service import Service

# The index of its choice for each wait for a snapshot.
_Waiting: TypeAlias = dict[asyncio.Task[RecordedSnapshot | None], int]


class Generation:
    """Runs choices until they are finished, the deadline has passed, or the client has gone.

    `aclose` aborts what still runs, and must be called.

    Args:
        arrived: `time.monotonic()` when the request did; its `timeout` counts from there.
    """

    def __init__(
        self,
        service: Service,
        request: GenerationRequest,
        choices: Sequence[Choice],
        *,
        arrived: float,
        with_probabilities: bool,
    ) -> None:
        self._service = service
        self._request = request
        self._choices = choices
        self._arrived = arrived
        limit = service.settings.max_timeout
        self._deadline = arrived + min(request.timeout or limit, limit)
        self._with_probabilities = with_probabilities
        self._streams: list[RequestStream] = []
        self._has_sent_text = False

    async def begin(self) -> None:
        """Queue every choice; ApiError if the engine cannot take one, or if the deadline has passed."""
        watched = self._request.stream or self._with_probabilities
        async with self._in_time():
            # Together: each is answered between two steps.
            adding = (
                self._service.engine.add_request(choice.canvas_ids, choice.params, watched=watched)
                for choice in self._choices
            )
            added = await asyncio.gather(*adding, return_exceptions=True)
            self._streams = [each for each in added if isinstance(each, RequestStream)]
            for each in added:
                if isinstance(each, BaseException):
                    raise each

    async def results(self) -> list[Result]:
        """Every choice, finished; ApiError if one failed, or if the deadline has passed."""
        async with self._in_time():
            snapshots = [await _last_of(stream) for stream in self._streams]
        results = [self._finished(*pair) for pair in zip(self._choices, snapshots, strict=True)]
        self._service.metrics.latency.observe(time.monotonic() - self._arrived)
        return results

    async def pieces(self) -> AsyncGenerator[Piece | list[Result] | None, None]:
        """Pieces of all choices as they come, None after a quiet while, and at last the list of results.

        Raises:
            ApiError: one failed, or the deadline has passed.
        """
        makers = [
            frames_for(self._service.llm, choice, self._request, with_probabilities=self._with_probabilities)
            for choice in self._choices
        ]
        for maker in makers:
            yield maker.first()
        pause = 1 / self._request.frame_hz if self._request.diffusing else 0.0
        results: dict[int, Result] = {}
        waiting: _Waiting = {asyncio.create_task(_next(stream)): index for index, stream in enumerate(self._streams)}
        try:
            while waiting:
                done = await self._wait(waiting)
                if not done:
                    yield None
                for task in done:
                    index = waiting.pop(task)
                    snapshot = task.result()
                    if snapshot is None:
                        continue
                    if snapshot.step == snapshot.request.num_steps:
                        results[index] = self._finished(self._choices[index], snapshot)
                        piece: Piece | None = makers[index].last(results[index])
                    else:
                        piece = makers[index].next(snapshot)
                    if piece is not None:
                        self._note_first_text(piece)
                        yield piece
                    if index not in results:
                        # Only now: while the client was slow, the newest snapshot took the place of the others.
                        waiting[asyncio.create_task(_next(self._streams[index], pause))] = index
        except SureLockError as error:
            raise self._failed(error) from error
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        self._service.metrics.latency.observe(time.monotonic() - self._arrived)
        yield [results[index] for index in range(len(self._choices))]

    async def aclose(self) -> None:
        """Abort what still runs."""
        for stream in self._streams:
            await stream.aclose()

    @asynccontextmanager
    async def _in_time(self) -> AsyncGenerator[None, None]:
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                yield
        except TimeoutError:
            raise self._late() from None
        except SureLockError as error:
            raise self._failed(error) from error

    async def _wait(self, waiting: _Waiting) -> set[asyncio.Task[RecordedSnapshot | None]]:
        left = self._deadline - time.monotonic()
        done, _ = await asyncio.wait(
            waiting,
            timeout=max(0.0, min(left, self._service.settings.ping_interval)),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if time.monotonic() >= self._deadline:
            raise self._late()
        return done

    def _finished(self, choice: Choice, snapshot: RecordedSnapshot) -> Result:
        result = finished(self._service.llm, choice, snapshot, with_probabilities=self._with_probabilities)
        self._service.metrics.count(result, waited=snapshot.started - self._arrived)
        return result

    def _note_first_text(self, piece: Piece) -> None:
        if piece.text and not self._has_sent_text:
            self._has_sent_text = True
            self._service.metrics.first_text.observe(time.monotonic() - self._arrived)

    def _late(self) -> ApiError:
        self._service.metrics.aborts.labels("deadline").inc()
        seconds = self._deadline - self._arrived
        return ApiError(504, "deadline_exceeded", f"the request was not finished within its timeout of {seconds:g} s")

    def _failed(self, error: SureLockError) -> ApiError:
        if isinstance(error, NonFiniteLogitsError):
            self._service.metrics.nonfinite.inc()
        if isinstance(error, EngineError | OutOfMemoryError):
            self._service.metrics.aborts.labels("engine").inc()
        return as_api_error(error)


async def _last_of(stream: RequestStream) -> RecordedSnapshot:
    last: RecordedSnapshot | None = None
    async for snapshot in stream:
        assert isinstance(snapshot, RecordedSnapshot)
        last = snapshot
    if last is None:
        raise EngineError("the engine gave no result")
    return last


async def _next(stream: RequestStream, pause: float = 0.0) -> RecordedSnapshot | None:
    if pause:
        await asyncio.sleep(pause)
    snapshot = await anext(stream, None)
    assert snapshot is None or isinstance(snapshot, RecordedSnapshot)
    return snapshot
