"""The official client, unchanged, against the server."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from surelock import LLM, SamplingParams
from tests.server.running import Running
from tests.waiting import WAIT_SECONDS

PROMPT = "Once upon a time, in a small town"


@pytest.fixture(scope="module")
def client(embedded_server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{embedded_server.url}/v1", api_key="unused", max_retries=0, timeout=WAIT_SECONDS
    ) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id == "surelock-demo"


def test_a_completion_is_what_generate_gives(client: openai.OpenAI, embedded: LLM) -> None:
    expected = embedded.generate(PROMPT, SamplingParams(max_tokens=12))[0]
    completion = client.completions.create(model="surelock-demo", prompt=PROMPT, max_tokens=12)
    assert completion.choices[0].text == expected.text
    assert completion.choices[0].finish_reason == expected.finish_reason
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == expected.prompt_tokens
    assert completion.usage.completion_tokens == expected.generation_tokens


def test_a_streamed_completion_joins_to_the_same(client: openai.OpenAI, embedded: LLM) -> None:
    expected = embedded.generate(PROMPT, SamplingParams(max_tokens=24))[0]
    chunks = list(client.completions.create(model="surelock-demo", prompt=PROMPT, max_tokens=24, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected.text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["length"]


def test_chat(client: openai.OpenAI, embedded: LLM) -> None:
    messages = [{"role": "user", "content": "Write this as JSON with the keys name, age.\nRosa is 34."}]
    expected = embedded.chat(messages, SamplingParams(max_tokens=32))
    answer = client.chat.completions.create(
        model="surelock-demo",
        messages=[{"role": "user", "content": messages[0]["content"]}],
        max_completion_tokens=32,
    )
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason == "stop"


def test_streamed_chat_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="surelock-demo",
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens <= 8


def test_snapshots_reach_the_client_as_extra_fields(client: openai.OpenAI) -> None:
    chunks = list(
        client.completions.create(
            model="surelock-demo",
            prompt=PROMPT,
            max_tokens=8,
            stream=True,
            extra_body={"diffusing": True, "frame_hz": 1000},
        )
    )
    assert chunks[0].choices[0].text == "░" * 8
    assert chunks[0].model_extra is not None
    assert chunks[0].model_extra["surelock"]["masked"] == 8


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="surelock-demo"):
        client.completions.create(model="gpt-4", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match="logit_bias") as caught:
        client.completions.create(model="surelock-demo", prompt=PROMPT, logit_bias={"5": 1})
    assert caught.value.code == "unsupported_parameter"
