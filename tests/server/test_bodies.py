"""Bodies that cost more than they say: what is counted is the work, not the time."""

from __future__ import annotations

import json
import threading
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from surelock.server import body
from surelock.server.body import MAX_KEYS, parse_json, validate
from surelock.server.errors import ApiError
from surelock.server.schemas import ChatRequest, CompletionRequest, DetokenizeRequest
from tests.server.running import Running
from tests.server.test_requests import envelope

MAX_VALUES = 1 << 18


def many(item: str, *, size: int = 2 << 20) -> str:
    return ",".join([item] * (size // (len(item) + 1) - 20))


def prompt_of(item: str) -> tuple[type[BaseModel], str]:
    return CompletionRequest, f'{{"prompt": [{many(item)}]}}'


MESSAGE = '{"role": "user", "content": [' + ",".join(["{}"] * 690) + "]}"
KEYS = ",".join(f'"key {number}": 1' for number in range(100_000))
HOSTILE: dict[str, tuple[type[BaseModel], str]] = {
    "negative ids": prompt_of("-1"),
    "nulls": prompt_of("null"),
    "floats": prompt_of("1.5"),
    "objects": prompt_of("{}"),
    "lists of objects": prompt_of("[{}]"),
    "lists of ids": prompt_of("[-1]"),
    "strings": prompt_of('""'),
    "as many as are parsed": (CompletionRequest, f'{{"prompt": [{many("-1", size=3 * (MAX_VALUES - 9))}]}}'),
    "as many of another kind": (CompletionRequest, f'{{"prompt": [{many("[-1]", size=5 * (MAX_VALUES // 2 - 9))}]}}'),
    "ids to detokenize": (DetokenizeRequest, f'{{"tokens": [{many("-1")}]}}'),
    "some ids to detokenize": (DetokenizeRequest, f'{{"tokens": [{many("-1", size=3 * (MAX_VALUES - 9))}]}}'),
    "stop strings": (CompletionRequest, f'{{"prompt": "a", "stop": [{many("1", size=MAX_VALUES)}]}}'),
    "parts": (ChatRequest, f'{{"messages": [{",".join([MESSAGE] * 999)}]}}'),
    "some parts": (ChatRequest, f'{{"messages": [{",".join([MESSAGE] * 300)}]}}'),
    "keys of a message": (ChatRequest, f'{{"messages": [{{{KEYS}}}]}}'),
    "keys": (CompletionRequest, f"{{{KEYS}}}"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_many_mistakes_cost_no_more_than_a_few(name: str) -> None:
    model, text = HOSTILE[name]
    content = text.encode()
    tracemalloc.start()
    try:
        with pytest.raises(ApiError) as caught:
            validate(model, parse_json(content, MAX_VALUES))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.status == 400
    assert len(caught.value.message) < 300
    complaint = caught.value.__context__
    assert not isinstance(complaint, ValidationError) or complaint.error_count() <= MAX_KEYS
    assert peak < 160 << 20


@pytest.mark.parametrize("item", ["[]", "1", '{"a": ":"}', '"\\\\\\""', '",[{:"'])
def test_a_valid_body_is_parsed_once(item: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = f'{{"prompt": "a: [", "metadata": [{many(item, size=60_000)}]}}'.encode()
    expected = json.loads(content)

    def parsed_again(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("surelock.server.body.json.loads", parsed_again)
    assert parse_json(content, MAX_VALUES) == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": ":"}',
        r'{"a": 1, "\u0061": 2}',
        r'{"b": "\"", "a": {"c\\": ":\\", "c\\": 1}}',
        '{"a": [{"b": 1}, {"b": 1, "b": 1}]}',
    ],
)
def test_keys_given_twice(text: str) -> None:
    with pytest.raises(ApiError, match="is given twice"):
        parse_json(text.encode(), MAX_VALUES)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=40)
@given(value=st.dictionaries(st.text(max_size=3), values, max_size=5), ascii_only=st.booleans())
def test_a_body_is_what_json_says(value: dict[str, Any], ascii_only: bool) -> None:
    content = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert parse_json(content, MAX_VALUES) == value


@settings(max_examples=40)
@given(value=st.dictionaries(st.text(max_size=3), values, max_size=5))
def test_values_are_counted_before_they_are_parsed(value: dict[str, Any]) -> None:
    def num_in(each: object) -> int:
        items = list(each.values()) if isinstance(each, dict) else each
        return 1 + (sum(map(num_in, items)) if isinstance(items, list) else 0)

    content = json.dumps(value).encode()
    assert parse_json(content, 2 * num_in(value)) == value
    with pytest.raises(ApiError, match="send several requests"):
        parse_json(content, num_in(value) // 2 - 1)


def test_large_bodies_are_parsed_beside_the_event_loop(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def noted(model: Any, value: dict[str, Any]) -> Any:
        threads.append(threading.current_thread().name)
        return validate(model, value)

    monkeypatch.setattr(body, "validate", noted)
    envelope(shared.post("/v1/completions", {"prompt": [-1] * 10_000}), 400)
    envelope(shared.post("/detokenize", {"tokens": [-1] * 10_000}), 400)
    assert len(threads) == 2
    assert all(name.startswith("surelock-encode") for name in threads)
