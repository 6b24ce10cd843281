"""The routes: from an HTTP request to a generation, to tokens or to a fact about the server, and its answer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any, Final, TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from surelock.server.body import parse, read_body
from surelock.server.errors import bad_request, dump_json
from surelock.server.formats import ChatFormat, CompletionFormat, FimFormat, InfillFormat
from surelock.server.generation import Generation
from surelock.server.guard import key_of
from surelock.server.metrics import CONTENT_TYPE
from surelock.server.openapi import JSON, documented
from surelock.server.prepare import check_ids, messages_of, num_choices, prepare, tokenizer_of
from surelock.server.responses import Answer, EventStream
from surelock.server.results import Result
from surelock.server.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    FimRequest,
    GenerationRequest,
    InfillRequest,
    TokenizeRequest,
)
from surelock.server.service import Service
from surelock.text.tokenizer import MAX_CHARACTERS_PER_POSITION

Model = TypeVar("Model", bound=GenerationRequest)
Asked = TypeVar("Asked", TokenizeRequest, DetokenizeRequest)

_GENERATING: Final[Mapping[str, tuple[type[GenerationRequest], type[CompletionFormat], str]]] = {
    "/v1/completions": (CompletionRequest, CompletionFormat, "Complete a text, or fill a gap in it."),
    "/v1/chat/completions": (ChatRequest, ChatFormat, "Answer a conversation."),
    "/v1/fim/completions": (FimRequest, FimFormat, "Fill the gap between prompt and suffix."),
    "/infill": (InfillRequest, InfillFormat, "Fill the gap between two texts, as llama.cpp's server."),
}


def generating_routes(service: Service) -> APIRouter:
    """Completions, chat, fill-in-the-middle and infill."""

    def endpoint(model: type[GenerationRequest], format: type[CompletionFormat]) -> Callable[..., Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await generate(service, request, model, format)

        return answer

    router = APIRouter()
    for path, (model, format, summary) in _GENERATING.items():
        options = documented(model, summary, JSON, "text/event-stream")
        router.add_api_route(path, endpoint(model, format), methods=["POST"], **options)
    return router


def token_routes(service: Service) -> APIRouter:
    """Tokenize and detokenize."""
    router = APIRouter()

    @router.post("/tokenize", **documented(TokenizeRequest, "Token ids of a text or a conversation."))
    async def tokenize(request: Request) -> Response:
        return await _with_tokenizer(service, request, TokenizeRequest, _tokenized)

    @router.post("/detokenize", **documented(DetokenizeRequest, "Text of token ids."))
    async def detokenize(request: Request) -> Response:
        return await _with_tokenizer(service, request, DetokenizeRequest, _detokenized)

    return router


def information_routes(service: Service) -> APIRouter:
    """Models, version, probes, metrics."""
    router = APIRouter()

    @router.get("/v1/models", **documented(None, "The models there are."))
    async def models() -> Response:
        return _json({"object": "list", "data": [_model(service)]})

    @router.get("/v1/models/{model:path}", **documented(None, "One of them."))
    async def model(model: str) -> Response:
        service.check_model(model)
        return _json(_model(service))

    @router.get("/version", **documented(None, "The version of the package."))
    async def own_version() -> Response:
        return _json({"version": version("surelock")})

    @router.get("/livez", **documented(None, "Whether the process answers."))
    async def livez() -> Response:
        return _json({"status": "ok"})

    @router.get("/readyz", **documented(None, "Whether requests would be served."))
    @router.get("/health", **documented(None, "As readyz."))
    async def readyz() -> Response:
        service.check_ready()
        return _json({"status": "ok"})

    @router.get("/metrics", **documented(None, "Prometheus metrics.", "text/plain"))
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    return router


async def generate(
    service: Service, http: Request, model: type[Model], format_class: type[CompletionFormat]
) -> Response:
    """Admit, read, check, encode, run, answer: in this order, so that a refusal costs little."""
    arrived = time.monotonic()
    key = key_of(http.scope)
    with service.admission.coming(key):
        body = await read_body(http, service.settings)
    # A place for the body while it waits to be parsed; how many it asks for is not known before.
    with service.admission.held(1, key):
        request = await parse(service, http, body, model)
    service.check_model(request.model)
    num = num_choices(request)
    if num > service.max_choices:
        raise bad_request(
            f"n times prompts is {num}; the limit is {service.max_choices}: send several requests",
            "n",
            "too_many_choices",
        )
    if format_class is InfillFormat and num > 1:
        raise bad_request(f"n is {request.n}; an infill has one answer: leave it out", "n")
    with_probabilities = asks_for_probabilities(request)
    with ExitStack() as stack:
        stack.enter_context(service.admission.admitted(num, key))
        choices = await service.encode(lambda: prepare(service.llm, request), http.receive)
        generation = Generation(service, request, choices, arrived=arrived, with_probabilities=with_probabilities)
        format = format_class(model=service.model, fingerprint=service.fingerprint)
        if request.stream:
            try:
                await generation.begin()
            except BaseException:
                await generation.aclose()
                raise
            return EventStream(service, request, generation, format, stack.pop_all())
        results = await service.unless_gone(http.receive, _results(generation))
        return Answer(dump_json(format.response(results)), stack.pop_all())


def asks_for_probabilities(request: GenerationRequest) -> bool:
    """Whether token probabilities are part of the answer."""
    if isinstance(request, ChatRequest):
        return request.logprobs
    return isinstance(request, CompletionRequest) and request.logprobs is not None


async def _results(generation: Generation) -> list[Result]:
    try:
        await generation.begin()
        return await generation.results()
    finally:
        await generation.aclose()


async def _with_tokenizer(
    service: Service, http: Request, model: type[Asked], function: Callable[[Service, Asked], dict[str, Any]]
) -> Response:
    """Admit, read, check, work, answer. It counts as one choice of its key until the answer is taken."""
    key = key_of(http.scope)
    with service.admission.coming(key), service.token_admission.coming(key):
        body = await read_body(http, service.settings)
    with ExitStack() as stack:
        stack.enter_context(service.admission.held(1, key))
        stack.enter_context(service.token_admission.admitted(1, key))
        asked = await parse(service, http, body, model)
        service.check_model(asked.model)
        answer = await service.encode(lambda: dump_json(function(service, asked)), http.receive)
        return Answer(answer, stack.pop_all())


def _tokenized(service: Service, asked: TokenizeRequest) -> dict[str, Any]:
    given = [name for name in ("prompt", "content", "messages") if getattr(asked, name) is not None]
    if len(given) != 1:
        raise bad_request("pass exactly one of prompt, content and messages", "prompt")
    if asked.messages is not None:
        ids = service.llm.encode_chat(messages_of(asked.messages))
    else:
        ids = tokenizer_of(service.llm).encode(asked.prompt if asked.prompt is not None else asked.content or "")
    return {"count": len(ids), "max_model_len": service.llm.config.max_sequence_length, "tokens": ids}


def _detokenized(service: Service, asked: DetokenizeRequest) -> dict[str, Any]:
    num, limit = len(asked.tokens), service.max_token_ids
    if num > limit:
        raise bad_request(f"tokens has {num} ids; the limit is {limit}: send several requests", "tokens")
    check_ids(service.llm, asked.tokens, "tokens")
    text = tokenizer_of(service.llm).decode(asked.tokens)
    # What `/tokenize` would take back.
    limit = MAX_CHARACTERS_PER_POSITION * service.llm.config.max_sequence_length
    if len(text) > limit:
        message = f"the text of tokens has {len(text)} characters; the limit is {limit}: send several requests"
        raise bad_request(message, "tokens", "context_length_exceeded")
    return {"prompt": text, "content": text}


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.model,
        "object": "model",
        "created": service.created,
        "owned_by": "surelock",
        "max_model_len": service.llm.config.max_sequence_length,
    }


def _json(value: dict[str, Any]) -> Response:
    return Response(dump_json(value), media_type="application/json")
