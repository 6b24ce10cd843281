"""`Service`: one model with its engine, and everything that lives as long as the server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any, Final, TypeVar

from starlette.types import Receive

from surelock.engine.async_engine import AsyncEngine
from surelock.engine.device_thread import SteppedEngine
from surelock.engine.engine import Engine
from surelock.errors import SureLockError
from surelock.llm import LLM
from surelock.params import SamplingParams
from surelock.server.admission import Admission
from surelock.server.errors import ApiError, as_api_error, client_gone
from surelock.server.metrics import Metrics
from surelock.server.recorder import RecordingEngine
from surelock.server.settings import ServerSettings
from surelock.text.tokenizer import MAX_CHARACTERS_PER_POSITION

Value = TypeVar("Value")

# Tokenising is Python and holds its lock: more threads would not be faster.
_NUM_ENCODERS: Final = 2
# Requests for token ids or their text at the same time, each with a body and an answer of some megabytes.
_MAX_TOKEN_REQUESTS: Final = 16
# Longer than a step of any model.
_STOP_SECONDS: Final = 10.0


class Service:
    """Made before the event loop runs, used inside it.

    Args:
        llm: the model.
        make_engine: in place of an `Engine` of the model; for tests.
        warm_up: decode one token before the first request: the first forward of a process is slow.
    """

    def __init__(
        self,
        llm: LLM,
        settings: ServerSettings,
        *,
        make_engine: Callable[[], SteppedEngine] | None = None,
        warm_up: bool = True,
    ) -> None:
        self.llm = llm
        self.settings = settings
        self.model = settings.served_model or llm.name
        self.fingerprint = f"surelock-{version('surelock')}-{(llm.commit or 'local')[:12]}"
        self.created = int(time.time())
        self.metrics = Metrics(self.model)
        self.admission = Admission(
            llm.engine_config.max_batch_size, settings.max_waiting, settings.max_per_key, self.metrics
        )
        # Beside their places among the others, as what they keep in memory is more than a generation does.
        self.token_admission = Admission(
            _NUM_ENCODERS, _MAX_TOKEN_REQUESTS - _NUM_ENCODERS, settings.max_per_key, self.metrics
        )
        self._warm_up = warm_up
        self._make_engine = make_engine or (lambda: Engine(llm.transformer, llm.engine_config))
        self._recorders: list[RecordingEngine] = []
        self._num_old_restarts = 0
        self._encoders = ThreadPoolExecutor(_NUM_ENCODERS, thread_name_prefix="surelock-encode")
        self._engine: AsyncEngine | None = None

    @property
    def max_choices(self) -> int:
        """Choices of one request: more could never be admitted."""
        places = self.llm.engine_config.max_batch_size + self.settings.max_waiting
        return min(self.settings.max_choices, places, self.settings.max_per_key or places)

    @property
    def max_token_ids(self) -> int:
        """Token ids in one request: those of all its prompts, and of any text that can be encoded."""
        return self.llm.config.max_sequence_length * max(self.max_choices, MAX_CHARACTERS_PER_POSITION)

    @property
    def limits(self) -> Mapping[str, object]:
        """What the document says of this model and these settings, by the names that `schemas` uses."""
        config = self.llm.config
        return {
            "$model": self.model,
            "$last_id": config.vocab_size - 1,
            "$mask_id": config.mask_token_id,
            "$positions": config.max_sequence_length,
            "$room": config.max_sequence_length - 1,
            "$characters": config.max_sequence_length * MAX_CHARACTERS_PER_POSITION,
            "$choices": self.max_choices,
            "$ids": self.max_token_ids,
        }

    @property
    def engine(self) -> AsyncEngine:
        """The engine; only between `start` and `stop`."""
        assert self._engine is not None
        return self._engine

    @property
    def silence(self) -> float:
        """Seconds since the engine's thread last moved."""
        return time.monotonic() - self.engine.heartbeat

    async def start(self) -> None:
        """Start the engine's thread and decode a token; raises what the model or the engine raises, or TimeoutError."""
        self._engine = engine = AsyncEngine(self._new_engine)
        self.metrics.watch(
            running=lambda: engine.num_running, waiting=lambda: engine.num_waiting, rows=lambda: self._num_rows
        )
        self.metrics.heartbeat.set_function(lambda: time.time() - self.silence)
        self.metrics.restarts.set_function(lambda: self._num_restarts)
        self.metrics.engine_restarts.set_function(lambda: engine.num_restarts)
        if self._warm_up:
            async with asyncio.timeout(self.settings.hang_timeout):
                await engine.generate([None], SamplingParams(max_tokens=1, steps=1))

    async def drop(self) -> None:
        """End what still runs with an error. An engine that hangs inside a step is not waited for."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.engine.aclose(drain=False), _STOP_SECONDS)

    async def stop(self) -> None:
        """Drop what still runs, and end the threads."""
        await self.drop()
        self._encoders.shutdown(wait=False, cancel_futures=True)

    def check_ready(self) -> None:
        """Raise ApiError (503) if requests would not be served."""
        if self.admission.is_draining:
            raise ApiError(503, "draining", "the server is shutting down")
        if self._engine is None:
            raise ApiError(503, "starting", "the server is starting")
        if self.engine.is_stopped:
            raise ApiError(503, "engine_stalled", "the engine's thread has ended: restart the server")
        if self.silence > self.settings.stall_timeout:
            raise ApiError(503, "engine_stalled", f"the engine has not moved for {self.silence:.0f} s")

    def check_model(self, name: str | None) -> None:
        """Raise ApiError (404) if a request names another model."""
        if name not in (None, self.model):
            raise ApiError(
                404, "model_not_found", f"there is no such model here; this server has {self.model}", "model"
            )

    async def encode(self, function: Callable[[], Value], receive: Receive) -> Value:
        """Run what takes a tokenizer's time beside the event loop; not at all if the client goes before its turn.

        Raises:
            ApiError: the function raised it, or a `SureLockError`; 499, the client has gone.
        """

        async def run() -> Value:
            return await asyncio.get_running_loop().run_in_executor(self._encoders, function)

        try:
            return await self.unless_gone(receive, run())
        except SureLockError as error:
            raise as_api_error(error) from error

    async def unless_gone(self, receive: Receive, work: Coroutine[Any, Any, Value]) -> Value:
        """The result of `work`, cancelled with ApiError (499) if the client goes. The body must have been read."""
        working = asyncio.ensure_future(work)
        watching = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            self.metrics.aborts.labels("disconnect").inc()
            raise client_gone()
        finally:
            for task in (working, watching):
                task.cancel()
            # What a cancelled task still does, such as aborting requests, is waited for.
            await asyncio.gather(working, watching, return_exceptions=True)

    @property
    def _num_rows(self) -> int:
        return self._recorders[-1].num_rows if self._recorders else 0

    @property
    def _num_restarts(self) -> int:
        return self._num_old_restarts + sum(recorder.num_restarts for recorder in self._recorders)

    def _new_engine(self) -> SteppedEngine:
        # The last one stopped at an error and must not keep its memory.
        self._num_old_restarts = self._num_restarts
        self._recorders.clear()
        recorder = RecordingEngine(self._make_engine())
        self._recorders.append(recorder)
        return recorder


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
