"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from surelock.server.answer import Answer
from surelock.server.body import parse, read_body
from surelock.server.errors import bad_request, dump_json
from surelock.server.guard import key_of
from surelock.server.openapi import documented
from surelock.server.prepare import check_ids, messages_of, tokenizer_of
from surelock.server.schemas import DetokenizeRequest, TokenizeRequest
from surelock.server.service import Service
from surelock.text.tokenizer import MAX_CHARACTERS_PER_POSITION

Model = TypeVar("Model", TokenizeRequest, DetokenizeRequest)


def token_routes(service: Service) -> APIRouter:
    """Tokenize and detokenize."""
    router = APIRouter()

    @router.post("/tokenize", **documented(TokenizeRequest, "Token ids of a text or a conversation."))
    async def tokenize(request: Request) -> Response:
        return await _answer(service, request, TokenizeRequest, _tokenized)

    @router.post("/detokenize", **documented(DetokenizeRequest, "Text of token ids."))
    async def detokenize(request: Request) -> Response:
        return await _answer(service, request, DetokenizeRequest, _detokenized)

    return router


async def _answer(
    service: Service, http: Request, model: type[Model], function: Callable[[Service, Model], dict[str, Any]]
) -> Response:
    """Admit, read, check, work, answer. It counts as one choice of its key from here until the answer is taken.

    Raises:
        ApiError: anything of it failed.
    """
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
