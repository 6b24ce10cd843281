"""The OpenAPI document, and requests made from it: none may fail the server or get an answer it does not name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from surelock import LLM
from tests.server.running import Running, running
from tests.server.tiny_llm import tiny_llm

with warnings.catch_warnings():
    # Of libraries it imports.
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]
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
def tiny(llm: LLM) -> Iterator[Running]:
    with running(tiny_llm(llm), max_choices=4) as server:
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
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            # One that is too short is answered with 504, as documented.
            case.body.pop("timeout", None)
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


@pytest.mark.parametrize("path", GETS)
def test_reading_routes(tiny: Running, document: dict[str, Any], path: str) -> None:
    try_out(tiny, document, path, GenerationMode.POSITIVE, 2)
