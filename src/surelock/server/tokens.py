"""Text to token ids and back."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from surelock.errors import SureLockError
from surelock.server.body import parse_json, read_body, validate
from surelock.server.errors import as_api_error, bad_request, dump_json
from surelock.server.openapi import documented
from surelock.server.prepare import messages_of, tokenizer_of
from surelock.server.schemas import DetokenizeRequest, TokenizeRequest
from surelock.server.service import Service


def token_routes(service: Service) -> APIRouter:
    """Tokenize and detokenize."""
    router = APIRouter()

    @router.post("/tokenize", **documented(TokenizeRequest, "Token ids of a text or a conversation."))
    async def tokenize(request: Request) -> Response:
        asked = validate(TokenizeRequest, parse_json(await read_body(request, service.settings)))
        service.check_model(asked.model)
        try:
            ids = await service.encode(lambda: _ids(service, asked))
        except SureLockError as error:
            raise as_api_error(error) from error
        limit = service.llm.config.max_sequence_length
        answer = {"count": len(ids), "max_model_len": limit, "tokens": ids}
        return Response(dump_json(answer), media_type="application/json")

    @router.post("/detokenize", **documented(DetokenizeRequest, "Text of token ids."))
    async def detokenize(request: Request) -> Response:
        asked = validate(DetokenizeRequest, parse_json(await read_body(request, service.settings)))
        service.check_model(asked.model)
        limit = service.llm.config.vocab_size
        for index, token in enumerate(asked.tokens):
            if token >= limit:
                raise bad_request(f"tokens.{index} is {token}; the model's ids are 0 to {limit - 1}", "tokens")
        text = await service.encode(lambda: tokenizer_of(service.llm).decode(asked.tokens))
        return Response(dump_json({"prompt": text, "content": text}), media_type="application/json")

    return router


def _ids(service: Service, asked: TokenizeRequest) -> list[int]:
    given = [name for name in ("prompt", "content", "messages") if getattr(asked, name) is not None]
    if len(given) != 1:
        raise bad_request("pass exactly one of prompt, content and messages", "prompt")
    if asked.messages is not None:
        return service.llm.encode_chat(messages_of(asked.messages))
    return tokenizer_of(service.llm).encode(asked.prompt if asked.prompt is not None else asked.content or "")
