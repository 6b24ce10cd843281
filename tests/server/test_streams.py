"""Two ways to follow a text that settles out of order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from surelock import LLM, SamplingParams
from surelock.engine.async_engine import RequestStream
from surelock.server import generation
from surelock.server.recorder import RecordedSnapshot
from tests.server.faulty_engine import FaultyEngine
from tests.server.running import Running, running
from tests.server.sse import stream, texts
from tests.waiting import until

PROMPT = "The committee has considered the report and"
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"block_length": 4},
        {"steps": 2},
        {"temperature": 1.5, "seed": 3, "ignore_eos": True},
        {"temperature": 3.0, "seed": 4},
        {"unmasking": "random", "seed": 1, "stop": ["e"]},
    ],
)
def test_deltas_snapshots_and_patches_end_in_the_same_bytes(shared: Running, fields: dict[str, Any]) -> None:
    body = {"prompt": PROMPT, "max_tokens": 10, "steps": 5, **fields}
    plain = shared.post(COMPLETIONS, body).json()["choices"][0]
    deltas = stream(shared, COMPLETIONS, **body)
    shown = stream(shared, COMPLETIONS, **body, diffusing=True, frame_hz=1000)
    patches = stream(shared, COMPLETIONS, **body, diffusing=True, stream_options={"surelock": "patch"})
    assert "".join(texts(deltas)) == plain["text"]
    assert texts(shown)[-1] == texts(patches)[-1] == plain["text"]
    assert set(texts(patches)[:-1]) == {""}
    for chunks in (deltas, shown, patches):
        reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
        assert reasons == [None] * (len(chunks) - 1) + [plain["finish_reason"]]


def test_snapshots_show_masks_and_say_where_they_are(shared: Running) -> None:
    chunks = stream(shared, COMPLETIONS, prompt=PROMPT, max_tokens=6, diffusing=True, mask_char="_", frame_hz=1000)
    assert texts(chunks)[0] == "______"
    for chunk in chunks:
        assert texts([chunk])[0].count("_") <= chunk["surelock"]["masked"]
    steps = [chunk["surelock"]["step"] for chunk in chunks]
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    assert steps[-1] == chunks[-1]["surelock"]["num_steps"] == 6


def test_patches_replay_the_run(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[Any] = []
    params = SamplingParams(max_tokens=12, block_length=6)
    output = llm.generate(PROMPT, params, on_step=updates.append)[0]
    engines: list[FaultyEngine] = []
    take = generation._next

    async def take_late(own: RequestStream, pause: float = 0.0) -> RecordedSnapshot | None:
        """Each time two steps have been done at least, so that several come in one chunk."""
        until_step = min(12, engines[0].num_steps + 3)
        while engines[0].num_steps < until_step:
            await asyncio.sleep(0.001)
        return await take(own)

    def make() -> FaultyEngine:
        engines.append(FaultyEngine(llm))
        return engines[-1]

    monkeypatch.setattr(generation, "_next", take_late)
    with running(llm, make) as server:
        chunks = stream(
            server,
            COMPLETIONS,
            prompt=PROMPT,
            max_tokens=12,
            block_length=6,
            diffusing=True,
            stream_options={"surelock": "patch"},
        )
    assert len(chunks) < len(updates)
    canvas = chunks[0]["surelock"]["canvas"]
    assert canvas["num_prompt"] == output.prompt_tokens
    assert canvas["tokens"][canvas["num_prompt"] :] == [None] * 12
    assert "".join(canvas["tokens"][: canvas["num_prompt"]]) == PROMPT
    patches = [chunk["surelock"]["patch"] for chunk in chunks[1:]]
    committed = [token for patch in patches for token in patch["tokens"]]
    expected = [
        [position, pytest.approx(confidence, abs=1e-4), update.step]
        for update in updates
        for position, confidence in zip(update.committed, update.confidence, strict=True)
    ]
    assert sorted([p, c, s] for p, _, c, s in committed) == sorted(expected, key=lambda each: each[0])
    locked = {position: step for patch in patches for position, step in patch["locked"]}
    assert locked == {p: step for p, step in enumerate(output.stats.locked_at) if step is not None}
    assert [rows for patch in patches for rows in patch["rows"]] == output.stats.active_rows
    assert chunks[-1]["surelock"]["saved_flops"] == pytest.approx(1 - output.stats.flops["full"]["ratio"], abs=1e-5)


def test_locked_spans(shared: Running, llm: LLM) -> None:
    output = llm.generate(PROMPT, SamplingParams(max_tokens=12))[0]
    chunks = stream(shared, COMPLETIONS, prompt=PROMPT, max_tokens=12)
    spans = chunks[-1]["surelock"]["locked"]
    inside = [position for start, end in spans for position in range(start, end)]
    assert inside == [position for position, step in enumerate(output.stats.locked_at) if step is not None]
    assert inside


@pytest.mark.parametrize("diffusing", [False, True])
def test_several_choices_in_one_stream(shared: Running, diffusing: bool) -> None:
    fields = {"prompt": ["One", "Two three"], "n": 2, "max_tokens": 6, "temperature": 1.0, "seed": 1}
    expected = [choice["text"] for choice in shared.post(COMPLETIONS, fields).json()["choices"]]
    chunks = stream(
        shared, COMPLETIONS, **fields, diffusing=diffusing, frame_hz=1000, stream_options={"include_usage": True}
    )
    usage = chunks.pop()
    assert usage["usage"]["completion_tokens"] <= 24
    for index in range(4):
        own = texts(chunks, index)
        assert (own[-1] if diffusing else "".join(own)) == expected[index]


def test_chat_begins_with_the_role(shared: Running) -> None:
    chunks = stream(shared, CHAT, messages=[{"role": "user", "content": "Hello"}], max_tokens=4)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert all("role" not in delta for delta in deltas[1:])


def test_a_quiet_stream_is_kept_open_by_comments(llm: LLM) -> None:
    engines: list[FaultyEngine] = []

    def make() -> FaultyEngine:
        engines.append(FaultyEngine(llm, held=True))
        return engines[-1]

    body = {"prompt": "a", "max_tokens": 2, "stream": True}
    with running(llm, make, ping_interval=0.02) as server, server.client.stream("POST", COMPLETIONS, json=body) as got:
        lines = got.iter_lines()
        while next(lines) != ": ping":
            pass
        engines[-1].go.set()
        assert list(lines)[-2:] == ["data: [DONE]", ""]


def test_a_stream_asks_not_to_be_collected(shared: Running) -> None:
    body = {"prompt": "a", "max_tokens": 1, "stream": True}
    with shared.client.stream("POST", COMPLETIONS, json=body) as got:
        assert got.headers["x-accel-buffering"] == "no"
        assert got.headers["cache-control"] == "no-cache"
        got.read()
    until(lambda: shared.service.admission.num_admitted == 0)


@pytest.mark.parametrize(
    "fields", [{"mask_char": ""}, {"mask_char": "ab"}, {"mask_char": "\n"}, {"mask_char": " "}, {"frame_hz": 0}]
)
def test_wrong_stream_fields(shared: Running, fields: dict[str, Any]) -> None:
    assert shared.post(COMPLETIONS, {"prompt": "a", **fields}).status_code == 400
