"""The routes that generate: from an HTTP request to a generation and its answer."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from surelock.server.answer import Answer
from surelock.server.body import parse, read_body
from surelock.server.errors import bad_request, dump_json
from surelock.server.events import EventStream
from surelock.server.formats import ChatFormat, CompletionFormat, FimFormat, InfillFormat
from surelock.server.generation import Generation
from surelock.server.guard import key_of
from surelock.server.openapi import JSON, documented
from surelock.server.prepare import num_choices, prepare
from surelock.server.results import Result
from surelock.server.schemas import ChatRequest, CompletionRequest, FimRequest, GenerationRequest, InfillRequest
from surelock.server.service import Service

Model = TypeVar("Model", bound=GenerationRequest)

EVENTS = "text/event-stream"


def generating_routes(service: Service) -> APIRouter:
    """Completions, chat, fill-in-the-middle and infill."""
    router = APIRouter()

    @router.post(
        "/v1/completions", **documented(CompletionRequest, "Complete a text, or fill a gap in it.", JSON, EVENTS)
    )
    async def completions(request: Request) -> Response:
        return await generate(service, request, CompletionRequest, CompletionFormat)

    @router.post("/v1/chat/completions", **documented(ChatRequest, "Answer a conversation.", JSON, EVENTS))
    async def chat(request: Request) -> Response:
        return await generate(service, request, ChatRequest, ChatFormat)

    @router.post(
        "/v1/fim/completions", **documented(FimRequest, "Fill the gap between prompt and suffix.", JSON, EVENTS)
    )
    async def fim(request: Request) -> Response:
        return await generate(service, request, FimRequest, FimFormat)

    @router.post(
        "/infill", **documented(InfillRequest, "Fill the gap between two texts, as llama.cpp's server.", JSON, EVENTS)
    )
    async def infill(request: Request) -> Response:
        return await generate(service, request, InfillRequest, InfillFormat)

    return router


async def generate(
    service: Service, http: Request, model: type[Model], format_class: type[CompletionFormat]
) -> Response:
    """Admit, read, check, encode, run, answer; in this order, so that a refusal costs little.

    Raises:
        ApiError: anything of it failed.
    """
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
