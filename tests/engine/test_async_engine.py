"""Many callers of one device: races, cancellation, slow readers, failures and the end."""

from __future__ import annotations

import asyncio
import gc
import random
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from surelock.config import EngineConfig
from surelock.engine import device_thread
from surelock.engine.async_engine import AsyncEngine, RequestStream
from surelock.engine.engine import Engine
from surelock.engine.snapshot import Snapshot
from surelock.errors import (
    EngineError,
    NonFiniteLogitsError,
    OutOfMemoryError,
    PromptError,
    SureLockError,
)
from surelock.params import LockParams, SamplingParams
from tests.engine.scripted_engine import ScriptedEngine
from tests.tiny import MASK, tiny_model
from tests.waiting import WAIT_SECONDS, until


def steps(num: int) -> SamplingParams:
    return SamplingParams(max_tokens=num)


async def read(stream: RequestStream) -> list[int]:
    return [snapshot.tokens[0] async for snapshot in stream]


async def begun(engine: ScriptedEngine) -> None:
    """A step is under way, held."""
    await asyncio.to_thread(until, engine.in_step.is_set)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def test_a_stream_gives_every_step_and_ends() -> None:
    fake = ScriptedEngine(held=True)

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            stream = await engine.add_request([1], steps(3))
            for step in (1, 2, 3):
                await asyncio.to_thread(fake.let_step)
                assert (await anext(stream)).tokens == [step]
            assert await read(stream) == []
            assert await read(stream) == []

    run(test)
    assert len(fake.threads) == 1
    assert threading.get_ident() not in fake.threads
    assert not fake.has_unfinished


def test_200_streams_at_once() -> None:
    fake = ScriptedEngine(num_slots=16)
    chance = random.Random(5)

    async def one(engine: AsyncEngine, number: int) -> None:
        num = 1 + number % 7
        async with await engine.add_request([1], steps(num), watched=number % 3 > 0) as snapshots:
            given = [snapshot.tokens[0] async for snapshot in snapshots]
        assert given[-1] == num
        assert given == sorted(set(given))
        assert number % 3 > 0 or given == [num]

    async def impatient(engine: AsyncEngine, number: int) -> None:
        task = asyncio.create_task(one(engine, number))
        for _ in range(chance.randrange(8)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            await asyncio.gather(*((one if n % 4 else impatient)(engine, n) for n in range(200)))

    run(test)
    assert not fake.has_unfinished


def test_nobody_watching_is_passed_on() -> None:
    fake = ScriptedEngine(held=True)

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            silent = asyncio.create_task(engine.generate([1], steps(4)))
            await asyncio.to_thread(fake.let_step)
            await begun(fake)
            adding = asyncio.create_task(engine.add_request([1], steps(2)))
            await asyncio.sleep(0)
            await asyncio.to_thread(fake.let_step, 3)
            assert (await silent).tokens == [4]
            assert (await read(await adding))[-1] == 2

    run(test)
    assert fake.watched == [False, False, True, True]


@pytest.mark.parametrize("how", ["aclose", "cancel", "break", "drop"])
@pytest.mark.parametrize("where", ["waiting", "running", "last step"])
def test_abort_takes_effect_within_a_step(how: str, where: str) -> None:
    fake = ScriptedEngine(num_slots=1, held=True)

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            first = await engine.add_request([1], steps(3))
            await begun(fake)
            adding = asyncio.create_task(engine.add_request([2], steps(3)))
            await asyncio.sleep(0)
            await asyncio.to_thread(fake.let_step, 2 if where == "last step" else 1)
            await begun(fake)
            second = await adding
            assert (engine.num_running, engine.num_waiting) == (1, 1)
            victim, other = (second, first) if where == "waiting" else (first, second)
            del first, second, adding

            if how == "aclose":
                await victim.aclose()
            elif how == "cancel":
                reader = asyncio.create_task(read(victim))
                await asyncio.sleep(0)
                reader.cancel()
                await asyncio.wait([reader])
                assert reader.cancelled()
                del reader
            elif how == "break":
                async with victim:
                    pass
            del victim
            gc.collect()
            fake.held = False
            fake.go.release()
            assert (await read(other))[-1] == 3

    run(test)
    assert not fake.has_unfinished
    # An abort while the step is held is known when it ends: 3 steps of the other and those done before.
    assert fake.num_steps == {"waiting": 3, "running": 2 + 3, "last step": 3 + 3}[where]


def test_cancelling_before_the_engine_has_accepted() -> None:
    fake = ScriptedEngine(num_slots=1, held=True)

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            first = await engine.add_request([1], steps(2))
            await begun(fake)
            adding = asyncio.create_task(engine.add_request([1], steps(50)))
            await asyncio.sleep(0)
            # The first has started, but its step is still under way.
            assert engine.num_waiting == 2
            adding.cancel()
            await asyncio.wait([adding])
            assert adding.cancelled()
            fake.held = False
            fake.go.release()
            assert (await read(first))[-1] == 2

    run(test)
    assert fake.num_steps == 2
    assert not fake.has_unfinished


def test_closing_a_stream_ends_another_task_that_reads_it() -> None:
    fake = ScriptedEngine(held=True)

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            stream = await engine.add_request([1], steps(9))
            readers = [asyncio.create_task(read(stream)) for _ in range(2)]
            await begun(fake)
            await stream.aclose()
            assert await asyncio.gather(*readers) == [[], []]
            fake.go.release()
            assert await read(stream) == []

    run(test)
    assert fake.num_steps == 1


def test_a_slow_reader_gets_the_newest_snapshot_and_the_last() -> None:
    fake = ScriptedEngine(held=True)

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            slow = await engine.add_request([1], steps(50))
            adding = asyncio.create_task(engine.add_request([1], steps(60)))
            await asyncio.to_thread(fake.let_step, 30)
            await begun(fake)
            other = await adding
            assert (await anext(slow)).tokens == [30]
            fake.held = False
            fake.go.release()
            assert (await read(other))[-1] == 60
            assert await read(slow) == [50]

    run(test)


def test_an_event_loop_that_does_not_turn_holds_one_snapshot_for_each_request() -> None:
    fake = ScriptedEngine()

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            stream = await engine.add_request([1], steps(500))
            until(lambda: not fake.has_unfinished)
            mailbox = stream._ticket.mailbox
            assert len(mailbox._items) <= 1
            given = await read(stream)
            assert len(given) <= 2
            assert given[-1] == 500

    run(test)


def test_what_is_wrong_with_a_request_is_raised_to_its_caller() -> None:
    fake = ScriptedEngine()

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            good = await engine.add_request([1], steps(5))
            with pytest.raises(PromptError, match="too long"):
                await engine.add_request([1] * 9, steps(5))
            with pytest.raises(PromptError, match="too long"):
                await engine.generate([1] * 9, steps(5))
            with pytest.raises(PromptError, match="too long"):
                await engine.add_request([1] * 9, steps(5))
            with pytest.raises(TypeError):
                await engine.add_request(None, steps(5))  # type: ignore[arg-type]
            assert (await read(good))[-1] == 5

    run(test)


@pytest.mark.parametrize(
    ("why", "kind", "message"),
    [
        (None, NonFiniteLogitsError, "NaN or infinite in step 1: check the weights"),
        (OutOfMemoryError("it does not fit alone"), OutOfMemoryError, "^it does not fit alone$"),
    ],
)
def test_a_failed_request_fails_alone(why: SureLockError | None, kind: type[Exception], message: str) -> None:
    fake = ScriptedEngine()
    fake.broken = {1: why}

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            tasks = [asyncio.create_task(engine.generate([1], steps(3))) for _ in range(3)]
            first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(first, Snapshot)
            assert isinstance(second, kind)
            assert re.search(message, str(second))
            assert isinstance(third, Snapshot)

    run(test)
    assert not fake.has_unfinished


def test_the_queue_is_counted() -> None:
    fake = ScriptedEngine(num_slots=1, held=True)

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            first = await engine.add_request([1], steps(2))
            await begun(fake)
            assert (engine.num_running, engine.num_waiting) == (0, 1)
            await asyncio.to_thread(fake.let_step)
            await begun(fake)
            assert (engine.num_running, engine.num_waiting) == (1, 0)
            queued = [asyncio.create_task(engine.generate([1], steps(1))) for _ in range(2)]
            await asyncio.sleep(0)
            assert engine.num_waiting == 2
            fake.held = False
            fake.go.release()
            assert [s.tokens for s in await asyncio.gather(*queued)] == [[1], [1]]
            assert (await read(first))[-1] == 2
            assert (await engine.generate([1], steps(1))).tokens == [1]

    run(test)


def fail_at(num: int, error: Exception) -> Callable[[int], None]:
    def on_step(step: int) -> None:
        if step == num:
            raise error

    return on_step


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RuntimeError("CUDA error:\nlaunch failure"), EngineError, r"RuntimeError: CUDA error: launch failure"),
        (OutOfMemoryError("no more"), OutOfMemoryError, "^no more$"),
        (EngineError("stopped"), EngineError, "^stopped$"),
        (SystemExit("now"), EngineError, "SystemExit: now"),
    ],
)
def test_an_engine_that_stops_ends_every_stream_and_the_next_request_gets_a_new_one(
    error: Exception, kind: type[Exception], message: str
) -> None:
    engines: list[weakref.ref[ScriptedEngine]] = []

    def make() -> ScriptedEngine:
        fake = ScriptedEngine(num_slots=2, on_step=None if engines else fail_at(3, error))
        engines.append(weakref.ref(fake))
        return fake

    async def test() -> None:
        async with AsyncEngine(make) as engine:
            tasks = [asyncio.create_task(engine.generate([1], steps(9))) for _ in range(5)]
            failures = await asyncio.gather(*tasks, return_exceptions=True)
            for failure in failures:
                assert isinstance(failure, kind)
                with pytest.raises(kind, match=message):
                    raise failure
                assert failure.__cause__ is error
            assert len({id(failure) for failure in failures}) == 5
            assert engine.num_restarts == 0
            # The errors are still there; the memory of the engine is not.
            gc.collect()
            assert engines[0]() is None
            assert (await engine.generate([1], steps(9))).tokens == [9]
            assert engine.num_restarts == 1

    run(test)
    assert len(engines) == 2


def test_without_a_function_that_makes_a_new_engine_it_stays_stopped() -> None:
    fake = ScriptedEngine(on_step=fail_at(1, RuntimeError("broken")))

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            with pytest.raises(EngineError, match="broken"):
                await engine.generate([1], steps(2))
            for _ in range(2):
                with pytest.raises(
                    EngineError, match=r"earlier error \(RuntimeError: broken\): make a new one, or give"
                ):
                    await engine.generate([1], steps(2))

    run(test)


def test_an_engine_that_cannot_be_made() -> None:
    answers: list[Any] = [ValueError("no device"), OutOfMemoryError("full"), ScriptedEngine()]

    def make() -> ScriptedEngine:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, ScriptedEngine)
        return answer

    async def test() -> None:
        async with AsyncEngine(make) as engine:
            with pytest.raises(EngineError, match="no engine could be made: ValueError: no device"):
                await engine.generate([1], steps(2))
            with pytest.raises(OutOfMemoryError, match="full"):
                await engine.generate([1], steps(2))
            assert (await engine.generate([1], steps(2))).tokens == [2]
            assert engine.num_restarts == 0

    run(test)


def test_an_error_while_aborting_stops_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ScriptedEngine(held=True)

    def fail(_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(fake, "abort_request", fail)

    async def test() -> None:
        engine = AsyncEngine(fake)
        first, second = await engine.add_request([1], steps(9)), asyncio.create_task(engine.generate([1], steps(9)))
        await begun(fake)
        await first.aclose()
        fake.go.release(2)
        with pytest.raises(EngineError, match="broken"):
            await second
        await engine.aclose(drain=False)

    run(test)


def test_an_engine_that_loses_a_request_does_not_leave_its_caller_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ScriptedEngine(on_step=lambda _: fake.running.clear())

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            with pytest.raises(EngineError, match="lost 1 requests"):
                await engine.generate([1], steps(2))

    run(test)


@pytest.mark.parametrize("drain", [True, False])
def test_closing_finishes_or_drops_what_was_accepted(drain: bool) -> None:
    fake = ScriptedEngine(num_slots=1, held=True)

    async def test() -> None:
        engine = AsyncEngine(fake)
        tasks = [asyncio.create_task(engine.generate([1], steps(3))) for _ in range(3)]
        await begun(fake)
        closing = asyncio.create_task(engine.aclose(drain=drain))
        await asyncio.sleep(0)
        with pytest.raises(EngineError, match="this AsyncEngine is closed: make a new one"):
            await engine.add_request([1], steps(1))
        fake.held = False
        fake.go.release()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await closing
        await engine.aclose()
        for result in results:
            if drain:
                assert isinstance(result, Snapshot)
                assert result.tokens == [3]
            else:
                assert isinstance(result, EngineError)
                assert "closed before this request ended" in str(result) or "is closed" in str(result)
        assert not engine._thread._thread.is_alive()
        assert (engine.num_waiting, engine.num_running) == (0, 0)

    run(test)
    assert not fake.has_unfinished


def test_a_drain_that_takes_too_long_can_be_cut_short() -> None:
    fake = ScriptedEngine(held=True)

    async def test() -> None:
        engine = AsyncEngine(fake)
        stream = await engine.add_request([1], steps(1000))
        await begun(fake)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.aclose(), 0.01)
        fake.go.release(2)
        await engine.aclose(drain=False)
        with pytest.raises(EngineError, match="closed before this request ended"):
            await read(stream)

    run(test)
    assert not fake.has_unfinished


def test_an_error_in_the_block_drops_what_was_accepted() -> None:
    fake = ScriptedEngine()

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            await engine.add_request([1], steps(60_000))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(test)
    assert fake.num_steps < 60_000
    assert not fake.has_unfinished


def test_heartbeat_and_no_busy_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_thread, "IDLE_SECONDS", 0.02)
    fake = ScriptedEngine(held=True)

    async def test() -> None:
        async with AsyncEngine(fake) as engine:
            started = time.monotonic()
            beats: set[float] = set()
            while len(beats) < 4:
                beats.add(engine.heartbeat)
                await asyncio.sleep(0.001)
            # The first beat is from before.
            assert time.monotonic() - started > 2 * 0.02
            task = asyncio.create_task(engine.generate([1], steps(1)))
            await begun(fake)
            stuck = engine.heartbeat
            await asyncio.sleep(0.05)
            assert engine.heartbeat == stuck
            fake.go.release()
            await task
            await asyncio.to_thread(until, lambda: engine.heartbeat > stuck)

    run(test)
    assert fake.num_steps == 1


def test_one_engine_outlives_an_event_loop() -> None:
    """A loop that ended without closing anything leaves nothing running."""
    fake = ScriptedEngine(held=True)
    engine = AsyncEngine(fake)

    async def leave() -> None:
        engine_stream = await engine.add_request([1], steps(60_000))
        kept.append(engine_stream)
        await begun(fake)

    kept: list[RequestStream] = []
    run(leave)
    fake.held = False
    fake.go.release()
    until(lambda: not fake.has_unfinished)
    assert fake.num_steps < 60_000

    async def again() -> None:
        assert (await engine.generate([1], steps(3))).tokens == [3]
        await engine.aclose()

    run(again)


def test_a_forgotten_engine_ends_its_thread() -> None:
    engine = AsyncEngine(ScriptedEngine())
    thread = engine._thread._thread
    del engine
    gc.collect()
    until(lambda: not thread.is_alive())


def test_a_forgotten_engine_does_not_keep_the_interpreter() -> None:
    script = """
import asyncio
import time
from surelock.engine.async_engine import AsyncEngine
from surelock.engine.request import Request
from surelock.params import SamplingParams

class BusyEngine:
    has_unfinished = False

    def add_request(self, canvas_ids, params):
        self.has_unfinished = True
        return Request(0, canvas_ids, params, seed=0)

    def abort_request(self, request):
        self.has_unfinished = False

    def step(self, *, watched=True):
        time.sleep(0.01)
        return []

async def main():
    return await engine.add_request([1], SamplingParams(max_tokens=1))

engine = AsyncEngine(BusyEngine())
stream = asyncio.run(main())
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_texts_are_those_of_each_request_alone(temperature: float) -> None:
    model = tiny_model()
    requests = [
        (
            [1 + (number * 7 + position) % (MASK - 1) for position in range(3 + number)],
            SamplingParams(
                max_tokens=6 + 2 * number,
                steps=5 + number,
                cfg_scale=number % 2,
                temperature=temperature,
                seed=number,
                lock=LockParams(kl_threshold=0.5),
            ),
        )
        for number in range(6)
    ]

    def alone(canvas_ids: list[int], params: SamplingParams) -> Snapshot:
        engine = Engine(model)
        engine.add_request(canvas_ids, params)
        last: list[Snapshot] = []
        while engine.has_unfinished:
            last = engine.step(watched=False)
        return last[-1]

    def make() -> Engine:
        made.append(Engine(model, EngineConfig(max_batch_size=3, poison=True)))
        return made[-1]

    made: list[Engine] = []

    async def test() -> None:
        async with AsyncEngine(make) as engine:
            victim = await engine.add_request([1, 2, 3], SamplingParams(max_tokens=40))
            tasks = [asyncio.create_task(engine.generate(*request)) for request in requests]
            await anext(victim)
            await victim.aclose()
            for request, snapshot in zip(requests, await asyncio.gather(*tasks), strict=True):
                expected = alone(*request)
                assert (snapshot.tokens, snapshot.locked_at) == (expected.tokens, expected.locked_at)
            with pytest.raises(PromptError, match="the model's limit is 96"):
                await engine.generate([1] * 90, SamplingParams(max_tokens=7))

    run(test)
    assert len(made) == 1
    assert not made[0].has_unfinished
