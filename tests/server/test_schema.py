"""The OpenAPI document, and requests made from it: none may fail the server or get an answer it does not name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from surelock import LLM
from tests.server.running import Running, running
from tests.server.schema_checks import valid_bodies_are_answered
from tests.server.tiny_llm import write_tiny_folder

with warnings.catch_warnings():
    # Of libraries it imports.
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        negative_data_rejection,
        response_schema_conformance,
        status_code_conformance,
    )

CHECKS = [
    valid_bodies_are_answered,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    content_type_conformance,
]
MESSAGES = [{"role": "user", "content": "a"}]
POSTS = [
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/fim/completions",
    "/infill",
    "/tokenize",
    "/detokenize",
]
GETS = ["/v1/models", "/v1/models/{model}", "/version", "/livez", "/readyz", "/health", "/metrics"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = write_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")
    with running(LLM(str(folder), device="cpu"), max_choices=4) as server:
        yield server


@pytest.fixture(scope="module")
def document(tiny: Running) -> dict[str, Any]:
    document: dict[str, Any] = tiny.client.get("/openapi.json").json()
    return document


def test_the_document_names_every_route(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == {*POSTS, *GETS}
    for path in POSTS:
        responses = document["paths"][path]["post"]["responses"]
        assert {"200", "400", "401", "404", "408", "413", "415", "429", "431", "500", "503", "504"} <= set(responses)
    assert document["components"]["schemas"]["CompletionRequest"]["properties"]["lock"]


def try_out(server: Running, document: dict[str, Any], path: str, mode: GenerationMode, num_examples: int) -> int:
    num_made = 0
    method = "POST" if path in POSTS else "GET"
    operation = schemathesis.openapi.from_dict(document)[path][method]

    @settings(max_examples=num_examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        nonlocal num_made
        num_made += 1
        response = case.call(base_url=server.url)
        case.validate_response(response, checks=CHECKS)

    check()
    return num_made


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", POSTS)
def test_a_few_requests_of_each_kind(tiny: Running, document: dict[str, Any], path: str, mode: GenerationMode) -> None:
    try_out(tiny, document, path, mode, 5)


@pytest.mark.slow
def test_more_than_a_thousand_requests(tiny: Running, document: dict[str, Any]) -> None:
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    num_made = sum(try_out(tiny, document, path, mode, 120) for path in POSTS for mode in modes)
    assert num_made >= 1000
    tiny.until_idle()


@pytest.mark.parametrize(
    ("path", "body", "is_valid"),
    [
        ("/detokenize", {"tokens": [4095, 1]}, True),
        ("/detokenize", {"tokens": [4096]}, False),
        ("/detokenize", {"tokens": [76] * (64 * 64)}, True),
        ("/detokenize", {"tokens": [76] * (64 * 64 + 1)}, False),
        ("/detokenize", {}, False),
        ("/tokenize", {"prompt": "a"}, True),
        ("/tokenize", {"content": "a" * 64 * 64, "messages": None}, True),
        ("/tokenize", {"content": "a" * 64 * 64 + "a"}, False),
        ("/tokenize", {"messages": MESSAGES}, True),
        ("/tokenize", {"prompt": "a", "content": "a"}, False),
        ("/tokenize", {"prompt": None}, False),
        ("/tokenize", {}, False),
        ("/infill", {}, True),
        ("/infill", {"n": 1.0, "max_tokens": None}, True),
        ("/infill", {"n": 2}, False),
        ("/infill", {"n_predict": 65}, False),
        ("/v1/fim/completions", {"prompt": ""}, True),
        ("/v1/fim/completions", {"prompt": None}, False),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1}, True),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_completion_tokens": 1, "max_tokens": None}, True),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_completion_tokens": 1, "max_tokens": 1}, False),
        ("/v1/completions", {"prompt": ""}, True),
        ("/v1/completions", {"prompt": "", "max_tokens": 64.0, "steps": 64, "model": "tiny"}, True),
        ("/v1/completions", {"prompt": "", "max_tokens": 65}, False),
        ("/v1/completions", {"prompt": "", "max_tokens": 2.5}, False),
        ("/v1/completions", {"prompt": "", "max_tokens": 0}, False),
        ("/v1/completions", {"prompt": "", "steps": 65}, False),
        ("/v1/completions", {"prompt": "", "model": "other"}, False),
        ("/v1/completions", {"prompt": [300.0] * 63}, True),
        ("/v1/completions", {"prompt": [300] * 64}, False),
        ("/v1/completions", {"prompt": [1]}, False),
        ("/v1/completions", {"prompt": [4096]}, False),
        ("/v1/completions", {"prompt": ["a"] * 4}, True),
        ("/v1/completions", {"prompt": ["a"] * 5}, False),
        ("/v1/completions", {"prompt": [[300], []]}, True),
        ("/v1/completions", {"prompt": [[1]]}, False),
        ("/v1/completions", {"prompt": []}, False),
        ("/v1/completions", {"prompt": None}, False),
        ("/v1/completions", {"prompt": "", "n": 4}, True),
        ("/v1/completions", {"prompt": "", "n": 5}, False),
        ("/v1/completions", {"prompt": "", "n": None, "temperature": None, "lock": None, "stop": None}, True),
        ("/v1/completions", {"template": ["a", 3], "prompt": None, "stop": []}, True),
        ("/v1/completions", {"template": ["a", 3], "prompt": "a"}, False),
        ("/v1/completions", {"template": ["a", 3], "logprobs": 1}, False),
        ("/v1/completions", {"template": ["a", 3], "stop": "a"}, False),
        ("/v1/completions", {"template": ["a", 65]}, False),
        ("/v1/completions", {"template": ["a"]}, False),
        ("/v1/completions", {"prompt": "", "preset": "off"}, True),
        ("/v1/completions", {"prompt": "", "preset": "off", "lock": {"kl_threshold": None}}, True),
        ("/v1/completions", {"prompt": "", "preset": "off", "lock": {"kl_threshold": 1}}, False),
        ("/v1/completions", {"prompt": "", "preset": "paper", "lock": {"kl_threshold": 1}}, True),
        ("/v1/completions", {"prompt": "", "mask_char": "_"}, True),
        ("/v1/completions", {"prompt": "", "mask_char": "\u00ad"}, False),
        ("/v1/completions", {"prompt": "", "mask_char": "\n"}, False),
    ],
)
def test_the_document_takes_what_the_server_takes(
    tiny: Running, document: dict[str, Any], path: str, body: dict[str, Any], is_valid: bool
) -> None:
    # A dependency of today's schemathesis, not of its oldest.
    jsonschema = pytest.importorskip("jsonschema_rs")
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert jsonschema.Draft202012Validator(document | schema).is_valid(body) == is_valid
    answer = tiny.post(path, body)
    assert (answer.status_code == 200) == is_valid, answer.text


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"prompt": "a b c", "max_tokens": 64}, "context_length_exceeded"),
        ({"template": ["a", 64]}, "context_length_exceeded"),
        ({"prompt": ["a", "b", "c"], "n": 2}, "too_many_choices"),
    ],
)
def test_what_the_document_cannot_say_has_a_code(tiny: Running, body: dict[str, Any], code: str) -> None:
    assert tiny.post("/v1/completions", body).json()["error"]["code"] == code


@pytest.mark.parametrize("path", GETS)
def test_reading_routes(tiny: Running, document: dict[str, Any], path: str) -> None:
    try_out(tiny, document, path, GenerationMode.POSITIVE, 2)
