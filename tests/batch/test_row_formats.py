"""Rows become tasks, and bad rows of every kind become failures that say why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surelock import LockParams, SamplingParams
from surelock.batch.records import record_of
from surelock.batch.row_formats import PARAMETERS, read_task
from surelock.batch.task import Defaults, Failure, Row, Task
from tests.batch.jobs import DEFAULTS, row_of


def task_of(values: dict[str, Any], defaults: Defaults = DEFAULTS) -> Task:
    task = read_task(row_of(values), defaults)
    assert isinstance(task, Task), task.error
    return task


def completion(**body: Any) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"} | body}


def chat(**body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "x"}]
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": messages} | body}


def test_defaults_hold_where_a_row_says_nothing() -> None:
    defaults = replace(DEFAULTS, params=SamplingParams(max_tokens=9, lock=LockParams(kl_threshold=0.1)))
    row = row_of({"prompt": "x", "max_tokens": None})
    task = read_task(row, defaults)
    assert isinstance(task, Task)
    assert task.params == replace(defaults.params, seed=row.seed(7))


def test_every_parameter_of_a_row() -> None:
    own = {
        "max_tokens": 5,
        "steps": 4,
        "block_length": 3,
        "temperature": 0.5,
        "cfg_scale": 1,
        "unmasking": "random",
        "seed": 8,
        "ignore_eos": True,
    }
    for values in ({"prompt": "x"} | own, completion(**own)):
        assert task_of(values).params == SamplingParams(**own)  # type: ignore[arg-type]


def test_stop_is_one_string_or_several() -> None:
    assert task_of(completion(stop="x")).params.stop == ("x",)
    assert task_of(completion(stop=["x", "y"])).params.stop == ("x", "y")


def test_a_lock_adds_to_the_default_or_ends_it() -> None:
    locked = replace(DEFAULTS, params=SamplingParams(lock=LockParams(min_visible_steps=3)))
    assert task_of(completion(lock={"kl_threshold": 0.1}), locked).params.lock == LockParams(
        kl_threshold=0.1, min_visible_steps=3
    )
    assert task_of(completion(lock=True), locked).params.lock == LockParams(min_visible_steps=3)
    assert task_of(completion(lock=None), locked).params.lock == LockParams(min_visible_steps=3)
    assert task_of(completion(lock=False), locked).params.lock is None
    for never in (0, None):
        assert task_of(completion(lock={"refresh": never}), locked).params.lock == LockParams(
            min_visible_steps=3, refresh=None
        )
    gated = replace(DEFAULTS, params=SamplingParams(lock=LockParams.paper()))
    assert task_of(completion(lock={"confidence_percentile": None}), gated).params.lock == LockParams(
        min_visible_steps=0, refresh=None
    )
    assert task_of(completion(lock={"kl_threshold": None}), gated).params.lock == LockParams.paper()
    assert task_of(completion(lock={}), replace(locked, params=SamplingParams(lock=None))).params.lock == LockParams()


def test_plain_rows() -> None:
    assert task_of({"prompt": "x", "answer": "y"}).prompt == "x"
    assert task_of({"prompt_token_ids": [1]}).prompt == {"prompt_token_ids": [1]}
    assert task_of({"canvas_token_ids": [1, None]}).prompt == {"canvas_token_ids": [1, None]}
    assert task_of({"messages": [{"role": "user", "content": "x"}]}).messages is not None
    assert task_of({"prompt": "x", "custom_id": 5}).name == "5"
    column = replace(DEFAULTS, prompt_column="question")
    assert task_of({"question": "x", "prompt": "other"}, column).prompt == "x"


def test_plain_rows_may_have_columns_named_like_openais() -> None:
    page = {"url": "https://a.b", "body": "<p>", "method": "GET"}
    assert task_of(page | {"prompt": "x"}).prompt == "x"
    assert task_of(page | {"question": "x"}, replace(DEFAULTS, prompt_column="question")).prompt == "x"
    assert task_of({"prompt": "x", "url": "/v1/completions"}).prompt == "x"
    assert task_of({"prompt": "x", "body": {"prompt": "y"}}).prompt == "x"
    assert task_of(completion() | {"prompt": "y"}).form == "completion"
    failure = read_task(row_of(page), DEFAULTS)
    assert isinstance(failure, Failure)
    assert "the row has no prompt" in str(failure.error)


def test_openai_rows() -> None:
    nothing = {"top_k": -1, "min_p": 0, "prediction": {"type": "content"}, "parallel_tool_calls": True, "functions": []}
    task = task_of(completion(model="any", n=1, stream=False, top_p=1.0, user="u", logprobs=None, **nothing))
    assert (task.form, task.name, task.prompt) == ("completion", "a", "x")
    assert (task.suffix, task_of(completion(suffix="end")).suffix) == (None, "end")
    assert task_of(completion(prompt=[1, 2])).prompt == {"prompt_token_ids": [1, 2]}
    assert task_of(chat(max_completion_tokens=5)).params.max_tokens == 5
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    task = task_of(chat(messages=[{"role": "user", "content": parts}]))
    assert task.form == "chat"
    assert task.messages == [{"role": "user", "content": "ab"}]


@pytest.mark.parametrize(
    ("values", "fragment"),
    [
        ({}, "has no prompt; it must have exactly one of prompt, messages"),
        ({"prompt": "x", "prompt_token_ids": [1]}, "has prompt and prompt_token_ids"),
        ({"prompt": 5}, "prompt is 5; it must be a string"),
        ({"prompt": "x", "max_token": 5}, "did you mean max_tokens?"),
        ({"prompt": "x", "max_tokens": "5"}, "max_tokens is '5'; it must be an integer"),
        ({"prompt": "x", "max_tokens": -1}, "max_tokens is -1"),
        ({"prompt": "x", "max_tokens": True}, "max_tokens is True"),
        ({"prompt": "x", "temperature": 101}, "temperature is 101"),
        ({"prompt": "x", "seed": 2**63}, "seed is"),
        ({"prompt": "x", "stop": [""]}, "stop holds ''"),
        ({"prompt": "x", "unmasking": "best"}, "unmasking is 'best'"),
        ({"prompt": "x", "lock": 5}, "lock is 5; it must be an object"),
        ({"prompt": "x", "lock": {"kl": 5}}, "lock has the unknown field 'kl'"),
        ({"prompt": "x", "lock": {"kl_treshold": 5}}, "did you mean kl_threshold?"),
        ({"prompt": "x", "lock": {"kl_threshold": "5"}}, "lock.kl_threshold is '5'"),
        ({"prompt": "x", "custom_id": ""}, "custom_id is ''"),
        ({"prompt": "x", "custom_id": "a" * 513}, "1 to 512 characters"),
        (completion() | {"custom_id": None}, "custom_id is missing"),
        (completion() | {"method": "GET"}, "method is 'GET'"),
        (completion() | {"url": "/v1/embeddings"}, "url is '/v1/embeddings'"),
        (completion() | {"url": ["/v1/completions"]}, "url is ["),
        (completion() | {"body": "x"}, "body is 'x'"),
        (completion(prompt=None), "prompt is None"),
        (completion(prompt=["a", "b"]), "one prompt for each row"),
        (completion(n=2), "n is 2"),
        (completion(stream=True), "stream is True"),
        (completion(n=True), "n is True"),
        (completion(logprobs=0), "logprobs is 0"),
        (completion(top_k=5), "top_k is 5"),
        (completion(logit_bias={"5": 1}), "logit_bias is"),
        (completion(suffix=5), "suffix is 5"),
        (completion(suffix="end", prompt=[1]), "suffix stands beside a prompt that is a string"),
        (chat(suffix="end"), "'suffix' is not a parameter of /v1/chat/completions"),
        (
            completion(temprature=1),
            "'temprature' is not a parameter of /v1/completions here; did you mean temperature?",
        ),
        (completion(max_completion_tokens=5), "'max_completion_tokens' is not a parameter"),
        (completion(allow_mask=True), "'allow_mask' is not a parameter"),
        (chat(max_tokens=1, max_completion_tokens=5), "max_completion_tokens and max_tokens differ"),
        (chat(messages="x"), "messages is 'x'"),
        (chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "content is ["),
        (chat(tools=[{"type": "function"}]), "tools is"),
    ],
)
def test_a_bad_row(values: dict[str, Any], fragment: str) -> None:
    failure = read_task(row_of(values), DEFAULTS)
    assert isinstance(failure, Failure)
    assert fragment in str(failure.error)
    assert len(str(failure.error).splitlines()) == 1
    assert failure.form == ("plain" if "url" not in values else failure.form)


def test_a_row_that_cannot_be_read_or_has_the_name_of_another() -> None:
    failure = read_task(Row(1, 0, 0, {}, "it is not JSON"), DEFAULTS)
    assert isinstance(failure, Failure)
    assert str(failure.error) == "it is not JSON"
    failure = read_task(row_of(completion(), 9), DEFAULTS, twin=4)
    assert isinstance(failure, Failure)
    assert failure.name == "a"
    assert str(failure.error) == "custom_id 'a' is also that of row 4; give each row its own"


NAMES = [
    "prompt",
    "messages",
    "prompt_token_ids",
    "canvas_token_ids",
    "custom_id",
    "method",
    "url",
    "body",
    "model",
    "n",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([*NAMES, *PARAMETERS, "suffix", "max_completion_tokens", "tools", "logprobs"]) | st.text()
objects = st.dictionaries(names, json_values, max_size=5)


@settings(max_examples=300)
@given(
    values=objects, body=objects, url=st.sampled_from(["/v1/completions", "/v1/chat/completions"]), whole=st.booleans()
)
def test_whatever_a_row_holds_it_is_a_task_or_a_failure(
    values: dict[str, Any], body: dict[str, Any], url: str, whole: bool
) -> None:
    if whole:
        values = {"custom_id": "a", "method": "POST", "url": url, "body": body}
    task = read_task(row_of(values), DEFAULTS)
    if isinstance(task, Failure):
        assert len(str(task.error).splitlines()) == 1
        orjson.dumps(record_of(task, "fake").line)
