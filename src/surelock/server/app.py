"""`create_app`: the ASGI application."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from surelock.server.errors import ApiError, internal_error
from surelock.server.guard import Guard
from surelock.server.information import information_routes
from surelock.server.openapi import set_document
from surelock.server.page_files import page_routes
from surelock.server.routes import generating_routes
from surelock.server.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    FimRequest,
    InfillRequest,
    Strict,
    TokenizeRequest,
)
from surelock.server.service import Service
from surelock.server.tokens import token_routes


def create_app(service: Service, *, adds_request_id: bool = True) -> Guard:
    """The application of one service, which starts and stops with it. For adds_request_id see `Guard`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="surelock",
        version=version("surelock"),
        lifespan=lifespan,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(generating_routes(service))
    app.include_router(token_routes(service))
    app.include_router(information_routes(service))
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_mistake)
    models: list[type[Strict]] = [
        CompletionRequest,
        ChatRequest,
        FimRequest,
        InfillRequest,
        TokenizeRequest,
        DetokenizeRequest,
    ]
    set_document(app, models, service.limits)
    app.router.routes += page_routes()
    return Guard(app, service, adds_request_id=adds_request_id)


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _response(error)


async def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    texts = {404: ("not_found", "there is no such route"), 405: ("method_not_allowed", "this route has other methods")}
    code, message = texts.get(error.status_code, ("http_error", "the request cannot be answered"))
    return _response(ApiError(error.status_code, code, message, headers=error.headers or {}))


async def _on_mistake(_: Request, __: Exception) -> Response:
    return _response(internal_error())


def _response(error: ApiError) -> Response:
    return Response(error.body(), error.status, dict(error.headers), "application/json")
