"""Failures stay with the request they belong to; nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from surelock import LLM, SureLockError
from surelock.engine.snapshot import Snapshot
from surelock.errors import OutOfMemoryError
from surelock.text.tokenizer import Tokenizer
from tests.server.faulty_engine import Broken, FaultyEngine
from tests.server.running import Running, running
from tests.server.sse import events
from tests.server.test_http import request
from tests.server.test_requests import envelope
from tests.server.tiny_llm import tiny_llm
from tests.tokenizer_folders import panicking_tokenizer
from tests.waiting import WAIT_SECONDS, until

COMPLETIONS = "/v1/completions"


@contextmanager
def faulty(
    llm: LLM,
    *,
    broken: Broken | None = None,
    held: bool = False,
    held_after: int | None = None,
    **settings: Any,
) -> Iterator[tuple[Running, list[FaultyEngine]]]:
    engines: list[FaultyEngine] = []

    def make() -> FaultyEngine:
        engines.append(FaultyEngine(llm, broken=broken, held=held and not engines, held_after=held_after))
        return engines[-1]

    with running(llm, make, **settings) as server:
        yield server, engines


def ask(server: Running, **fields: Any) -> httpx.Response:
    return server.post(COMPLETIONS, {"prompt": "Once", "max_tokens": 4} | fields)


def until_engine_has(server: Running, num: int) -> None:
    """So many choices wait in the engine, or run."""
    until(lambda: server.service.engine.num_waiting + server.service.engine.num_running == num)


def engine_of(engines: list[FaultyEngine]) -> FaultyEngine:
    """The first engine, which the first request makes."""
    until(lambda: bool(engines))
    return engines[0]


def in_background(server: Running, **fields: Any) -> Future[httpx.Response]:
    future: Future[httpx.Response] = Future()
    threading.Thread(target=lambda: future.set_result(ask(server, **fields)), daemon=True).start()
    return future


def test_a_text_at_which_the_tokenizer_panics_is_refused(llm: LLM) -> None:
    own = tiny_llm(llm)
    own.tokenizer = panicking_tokenizer(own.config)
    with faulty(own) as (server, _):
        envelope(ask(server, prompt="a" * 40), 400)
        assert ask(server).status_code == 200
        server.until_idle()


FAILURES = [(None, 500, "nonfinite_logits"), (OutOfMemoryError("memory ran out: shorten it"), 503, "out_of_memory")]


@pytest.mark.parametrize(("error", "status", "code"), FAILURES)
def test_case_5_and_16_a_failed_request_hurts_nobody_else(
    llm: LLM, error: SureLockError | None, status: int, code: str
) -> None:
    with faulty(llm, broken={7: error}) as (server, engines):
        neighbour = in_background(server, max_tokens=12)
        envelope(ask(server, max_tokens=7), status, code)
        assert neighbour.result(WAIT_SECONDS).status_code == 200
        engines[0].go.clear()
        with server.client.stream(
            "POST", COMPLETIONS, json={"prompt": "a", "max_tokens": 7, "stream": True}
        ) as streamed:
            # The answer has begun: its status can no longer say so.
            engines[0].go.set()
            assert events(streamed.iter_lines())[-1]["error"]["code"] == code
        assert len(engines) == 1
        assert server.metric("surelock_nonfinite_logits_total") == (2 if error is None else 0)
        server.until_idle()


def test_case_16_and_17_an_error_of_the_engine_ends_its_requests_and_starts_a_new_one(llm: LLM) -> None:
    with faulty(llm, held=True) as (server, engines):
        waiting = in_background(server)
        until_engine_has(server, 1)
        engine_of(engines).raise_in_step = RuntimeError("secret of the kernel")
        engine_of(engines).go.set()
        error = envelope(waiting.result(WAIT_SECONDS), 503, "engine_error")
        assert "secret" not in error["message"]
        assert "retry-after" in waiting.result().headers
        assert ask(server).status_code == 200
        assert len(engines) == 2
        assert server.client.get("/readyz").status_code == 200
        assert server.metric("surelock_engine_restarts_total") == 1


@pytest.mark.parametrize("where", ["encode", "decode"])
def test_case_17_a_mistake_of_ours_is_one_answer(llm: LLM, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(Tokenizer, where)

    def broken(self: Tokenizer, text: Any, **options: Any) -> Any:
        if text == "bad" or (where == "decode" and len(text) == 7):
            raise ZeroDivisionError("secret text")
        return original(self, text, **options)

    monkeypatch.setattr(Tokenizer, where, broken)
    with running(llm) as server:
        fields: dict[str, Any] = {"prompt": "bad"} if where == "encode" else {"max_tokens": 7, "ignore_eos": True}
        error = envelope(ask(server, **fields), 500, "internal_error")
        assert "secret" not in error["message"]
        if where == "decode":
            body = {"prompt": "a", "stream": True, **fields}
            with server.client.stream("POST", COMPLETIONS, json=body) as got:
                assert events(got.iter_lines())[-1]["error"]["code"] == "internal_error"
        assert ask(server).status_code == 200
        server.until_idle()


def test_case_13_a_full_queue_refuses_before_it_looks(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty(llm, held=True, max_waiting=1) as (server, engines):
        size = llm.engine_config.max_batch_size
        admitted = in_background(server, n=size + 1)
        until_engine_has(server, size + 1)
        encoded: list[str] = []
        monkeypatch.setattr(Tokenizer, "encode", lambda self, text, **_: encoded.append(text))
        refused = ask(server, prompt="x" * 1000)
        envelope(refused, 503, "queue_full")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        # Even what is no JSON.
        headers = {"content-type": "application/json"}
        envelope(server.post(COMPLETIONS, content=b"{{", headers=headers), 503, "queue_full")
        assert not encoded
        monkeypatch.undo()
        assert server.metric("surelock_admission_rejections_total", reason="queue_full") == 2
        engine_of(engines).go.set()
        assert admitted.result(WAIT_SECONDS).status_code == 200
        server.until_idle()
        assert ask(server).status_code == 200


def test_case_13_a_request_with_too_many_choices_for_the_room_left(llm: LLM) -> None:
    with faulty(llm, held=True, max_waiting=1) as (server, engines):
        size = llm.engine_config.max_batch_size
        first = in_background(server)
        until_engine_has(server, 1)
        envelope(ask(server, n=size + 1), 503, "queue_full")
        engine_of(engines).go.set()
        assert first.result(WAIT_SECONDS).status_code == 200


def test_case_13_a_limit_for_each_key(llm: LLM) -> None:
    with faulty(llm, held=True, max_per_key=2, api_keys=("first-key", "second-key")) as (server, engines):
        first = in_background(server, n=2)
        until_engine_has(server, 2)
        refused = ask(server)
        envelope(refused, 429, "too_many_requests")
        assert "retry-after" in refused.headers
        engine_of(engines).go.set()
        other = server.post(
            COMPLETIONS, {"prompt": "a", "max_tokens": 1}, headers={"Authorization": "Bearer second-key"}
        )
        assert other.status_code == 200
        assert first.result(WAIT_SECONDS).status_code == 200
        assert server.metric("surelock_admission_rejections_total", reason="too_many_requests") == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_case_14_a_deadline(llm: LLM, streamed: bool) -> None:
    with faulty(llm, held=True) as (server, engines):
        num_late = 0
        if streamed:
            # Accepted between two steps, then nothing happens. A machine that is too slow to accept it gets more time.
            has_begun, seconds = False, 0.2
            while not has_begun:
                body = {"prompt": "a", "max_tokens": 2, "stream": True, "timeout": seconds}
                with server.client.stream("POST", COMPLETIONS, json=body) as got:
                    has_begun = got.status_code == 200
                    if has_begun:
                        assert events(got.iter_lines())[-1]["error"]["code"] == "deadline_exceeded"
                seconds, num_late = 4 * seconds, num_late + 1
        else:
            envelope(ask(server, timeout=0.2), 504, "deadline_exceeded")
            num_late = 1
        server.until_idle()
        assert server.metric("surelock_aborts_total", reason="deadline") == num_late
        engine_of(engines).go.set()
        assert ask(server).status_code == 200


def test_case_14_the_servers_own_limit_is_the_default(llm: LLM) -> None:
    with faulty(llm, held=True, max_timeout=0.2) as (server, _):
        envelope(ask(server), 504)
        envelope(ask(server, timeout=1000), 504)


def test_a_stalled_engine_is_not_ready_and_alive(llm: LLM) -> None:
    with faulty(llm) as (server, engines):
        assert ask(server).status_code == 200
        assert server.client.get("/readyz").status_code == 200
        object.__setattr__(server.service.settings, "stall_timeout", 0.1)
        gate = threading.Event()

        def stuck_step(*, watched: bool = True) -> list[Snapshot]:
            gate.wait(WAIT_SECONDS)
            return []

        engine_of(engines).step = stuck_step  # type: ignore[method-assign]
        stuck = in_background(server, timeout=1)
        until(lambda: server.client.get("/readyz").status_code == 503)
        envelope(server.client.get("/health"), 503, "engine_stalled")
        assert server.client.get("/livez").status_code == 200
        gate.set()
        stuck.result(WAIT_SECONDS)


def test_an_engine_whose_thread_has_ended_is_not_ready_at_once(llm: LLM) -> None:
    with faulty(llm) as (server, _):
        assert server.client.get("/readyz").status_code == 200
        engine = server.service.engine
        engine._thread.close(drain=False)
        engine._thread.join(WAIT_SECONDS)
        assert engine.is_stopped
        envelope(server.client.get("/readyz"), 503, "engine_stalled")
        assert server.client.get("/livez").status_code == 200


async def leave(url: str, *, streamed: bool, seconds: float | None) -> None:
    """Ask and go, after some time or, with None, after the first line."""
    body = {"prompt": "Once upon a time", "max_tokens": 40, "n": 2, "stream": streamed}
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_SECONDS, trust_env=False) as client:
        try:
            async with asyncio.timeout(seconds):
                async with client.stream("POST", COMPLETIONS, json=body) as answer:
                    async for _ in answer.aiter_lines():
                        if seconds is None:
                            return
        except TimeoutError:
            return


@pytest.mark.parametrize("num", [24, pytest.param(1000, marks=pytest.mark.slow)])
def test_case_11_nothing_is_left_of_clients_that_go(llm: LLM, num: int) -> None:
    chance = random.Random(1)

    async def all_leave(url: str) -> None:
        limit = asyncio.Semaphore(8)

        async def one(number: int) -> None:
            async with limit:
                await leave(url, streamed=number % 2 == 0, seconds=chance.random() * 0.3)

        await asyncio.gather(*map(one, range(num)))

    with faulty(llm, held=True) as (server, engines):
        # This one goes before it can be answered, however slow the machine is.
        asyncio.run(leave(server.url, streamed=True, seconds=None))
        until(lambda: server.metric("surelock_aborts_total", reason="disconnect") == 1)
        engine_of(engines).go.set()
        expected = ask(server, max_tokens=12).json()["choices"][0]["text"]
        asyncio.run(all_leave(server.url))
        server.until_idle()
        metrics = server.client.get("/metrics").text
        assert "surelock_requests_running 0.0" in metrics
        assert "surelock_requests_waiting 0.0" in metrics
        until(lambda: len(server.server.server_state.tasks) == 0)
        assert ask(server, max_tokens=12).json()["choices"][0]["text"] == expected


def test_case_11_a_step_is_enough_to_be_gone(llm: LLM) -> None:
    # Unstreamed, as this handler would run to its end otherwise.
    body = b'{"prompt": "a", "max_tokens": 200}'
    head = request(COMPLETIONS, "Content-Type: application/json", f"Content-Length: {len(body)}", method="POST")
    with faulty(llm, held_after=3) as (server, engines):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head + body)
            until(lambda: engine_of(engines).num_steps == 3)
        server.until_idle()
        assert engine_of(engines).num_steps == 3
        assert server.metric("surelock_aborts_total", reason="disconnect") == 1


def test_case_11_a_request_that_waits_leaves_the_queue(llm: LLM) -> None:
    with faulty(llm, held=True) as (server, _):
        with pytest.raises(httpx.ReadTimeout):
            server.client.post(
                COMPLETIONS, json={"prompt": "a", "n": 30}, timeout=httpx.Timeout(WAIT_SECONDS, read=0.2)
            )
        server.until_idle()


def test_neighbours_of_an_abandoned_stream_are_served(llm: LLM) -> None:
    with running(llm) as server, ThreadPoolExecutor(2) as pool:
        expected = ask(server, max_tokens=16).json()["choices"][0]["text"]
        futures = [pool.submit(ask, server, max_tokens=16) for _ in range(2)]
        asyncio.run(leave(server.url, streamed=True, seconds=0.1))
        assert [future.result().json()["choices"][0]["text"] for future in futures] == [expected] * 2


def test_case_31_unique_requests_leave_nothing_behind(llm: LLM) -> None:
    with running(tiny_llm(llm)) as server:

        def objects_after(num: int, start: int) -> int:
            for number in range(start, start + num):
                fields = {"max_tokens": 1, "prompt": f"{number}", "stop": [f"stop {number}"], f"x{number}": 1}
                assert ask(server, **fields).status_code == 400
                del fields[f"x{number}"]
                assert ask(server, **fields).status_code == 200
            gc.collect()
            return len(gc.get_objects())

        objects_after(10, 0)
        before = objects_after(10, 10)
        assert objects_after(100, 20) - before < 200


def test_case_35_a_clock_that_jumps_changes_nothing(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(llm) as server:
        monkeypatch.setattr(time, "time", lambda: -1e9)
        assert ask(server, timeout=600).status_code == 200
        assert server.client.get("/readyz").status_code == 200


def test_the_table_of_cases_names_tests_there_are() -> None:
    tests = Path(__file__).parents[1]
    text = (tests / "server" / "README.md").read_text()
    rows = re.findall(r"^\| (\d+) .*?\| (.*) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 36))
    for _, named in rows:
        for reference in re.findall(r"`([^`]+)`", named):
            file, *names = reference.split("::")
            home = tests.parent if file.startswith("benchmarks/") else tests
            source = (home / file).read_text()
            assert all(re.search(rf"^\s*(?:class|def) {name}\b", source, re.MULTILINE) for name in names), reference
