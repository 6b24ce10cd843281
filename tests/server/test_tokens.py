"""/tokenize and /detokenize take places as the others do, work for whoever waits, and keep little in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from surelock import LLM
from surelock.server.errors import ApiError
from surelock.server.responses import Answer
from surelock.server.service import _MAX_TOKEN_REQUESTS, _NUM_ENCODERS, Service
from surelock.server.settings import ServerSettings
from surelock.text.tokenizer import MAX_CHARACTERS_PER_POSITION, Tokenizer
from tests.server.running import Running, running
from tests.server.test_requests import envelope
from tests.waiting import until

SECOND_KEY = {"Authorization": "Bearer second-key"}


@contextmanager
def stuck(server: Running, num: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So many requests for text are under way for as long as the block lasts."""
    go = threading.Event()
    decode = Tokenizer.decode

    def waits(self: Tokenizer, ids: Any) -> str:
        assert go.wait(20)
        return decode(self, ids)

    monkeypatch.setattr(Tokenizer, "decode", waits)
    with ThreadPoolExecutor(num) as pool:
        # One after the other: a rush would be refused for those that are on their way.
        futures = []
        for number in range(num):
            futures.append(pool.submit(server.post, "/detokenize", {"tokens": [300]}))
            until(lambda expected=number + 1: server.service.token_admission.num_admitted == expected)  # type: ignore[misc]
        try:
            yield
        finally:
            go.set()
        assert [future.result().status_code for future in futures] == [200] * num
    until(lambda: server.service.token_admission.num_admitted == server.service.admission.num_admitted == 0)


def test_they_count_for_their_key(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(llm, max_per_key=2, api_keys=("first-key", "second-key")) as server:
        with stuck(server, 2, monkeypatch):
            for path in ("/tokenize", "/v1/completions"):
                envelope(server.post(path, {"prompt": "a", "model": "none"}), 429, "too_many_requests")
            envelope(server.post("/tokenize", {"model": "none"}, headers=SECOND_KEY), 404)
        assert server.post("/tokenize", {"prompt": "a"}).status_code == 200


def test_so_many_at_a_time_and_no_more(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(llm) as server:
        with stuck(server, _MAX_TOKEN_REQUESTS, monkeypatch):
            # Before the body is read.
            refused = server.post("/tokenize", content=b"{{", headers={"content-type": "application/json"})
            envelope(refused, 503, "queue_full")
            assert "retry-after" in refused.headers
            envelope(server.post("/v1/completions", {"prompt": "a", "model": "none"}), 404)
        assert server.post("/tokenize", {"prompt": "a"}).status_code == 200


def test_a_full_queue_refuses_them_too(llm: LLM) -> None:
    with running(llm) as server, server.service.admission.held(16 + 256, ""):
        envelope(server.post("/tokenize", {"prompt": "a"}), 503, "queue_full")


def test_nothing_is_done_for_clients_that_have_left(llm: LLM) -> None:
    service = Service(llm, ServerSettings())
    go = threading.Event()
    done: list[int] = []

    async def stays() -> Any:
        await asyncio.Event().wait()

    async def leaves() -> Any:
        return {"type": "http.disconnect"}

    async def ask() -> None:
        busy = [asyncio.create_task(service.encode(lambda: go.wait(20), stays)) for _ in range(_NUM_ENCODERS)]
        await asyncio.sleep(0)
        for number in range(20):
            with pytest.raises(ApiError) as caught:
                await service.encode(lambda number=number: done.append(number), leaves)  # type: ignore[misc]
            assert caught.value.status == 499
        go.set()
        assert await asyncio.gather(*busy) == [True] * _NUM_ENCODERS
        await service.encode(lambda: done.append(-1), stays)

    asyncio.run(ask())
    assert done == [-1]


def test_an_answer_keeps_its_place_until_it_is_taken() -> None:
    """uvicorn takes a whole body at once and keeps it: what a client does not read has to wait before it."""
    sent: list[bytes] = []
    released: list[bool] = []

    async def answer() -> None:
        taken = asyncio.Semaphore(0)
        held = ExitStack()
        held.callback(lambda: released.append(True))

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await taken.acquire()
                sent.append(message["body"])

        async def receive() -> Any:
            await asyncio.Event().wait()

        body = bytes(range(256)) * 4096
        sending = asyncio.create_task(Answer(body, held)({"type": "http"}, receive, send))
        for number in range(1, 16):
            taken.release()
            await asyncio.sleep(0)
            assert len(b"".join(sent)) <= number << 16
            assert not released
        for _ in range(3):
            taken.release()
        await sending
        assert b"".join(sent) == body
        assert released == [True]

    asyncio.run(answer())


def test_what_is_decoded_and_answered_is_bounded(shared: Running, llm: LLM) -> None:
    limit = MAX_CHARACTERS_PER_POSITION * llm.config.max_sequence_length
    longest = max(range(12, 4000), key=lambda token: len(shared.service.llm.tokenizer.decode([token])))  # type: ignore[union-attr]
    per_token = len(shared.post("/detokenize", {"tokens": [longest]}).json()["prompt"])
    assert per_token > 4
    assert shared.post("/detokenize", {"tokens": [longest] * (limit // per_token)}).status_code == 200
    too_long = shared.post("/detokenize", {"tokens": [longest] * (limit // per_token + 1)})
    assert f"the limit is {limit}" in envelope(too_long, 400)["message"]
    too_many = shared.post("/detokenize", {"tokens": [300] * (shared.service.max_token_ids + 1)})
    assert envelope(too_many, 400)["param"] == "tokens"


def test_what_can_be_tokenized_can_be_detokenized(shared: Running, llm: LLM) -> None:
    text = "xq" * (MAX_CHARACTERS_PER_POSITION * llm.config.max_sequence_length // 2)
    ids = shared.post("/tokenize", {"content": text}).json()["tokens"]
    assert shared.post("/detokenize", {"tokens": ids}).json()["content"] == text
    assert "the limit is" in envelope(shared.post("/tokenize", {"content": text + "x"}), 400)["message"]


@pytest.mark.parametrize("max_per_key", [None, 2])
def test_more_choices_than_there_will_ever_be_places_for(llm: LLM, max_per_key: int | None) -> None:
    with running(llm, max_per_key=max_per_key, max_waiting=1) as server:
        places = max_per_key or llm.engine_config.max_batch_size + 1

        def ask(**fields: Any) -> httpx.Response:
            return server.post("/v1/completions", {"prompt": "a", "max_tokens": 1} | fields)

        assert f"the limit is {places}" in envelope(ask(n=places + 1), 400)["message"]
        envelope(ask(prompt=["a"] * (places + 1)), 400)
        assert ask(n=places).status_code == 200


@pytest.mark.parametrize(
    ("prompt", "param"), [([1], "prompt.0"), ([300, 4096], "prompt.1"), ([[300], [300, 1]], "prompt.1.1")]
)
def test_errors_about_ids_name_what_was_sent(shared: Running, prompt: list[Any], param: str) -> None:
    for more in ({}, {"suffix": "a"}):
        error = envelope(shared.post("/v1/completions", {"prompt": prompt, "max_tokens": 1} | more), 400)
        assert error["param"] == param
        assert error["message"].startswith(f"{param} is ")
