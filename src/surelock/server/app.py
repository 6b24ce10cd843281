"""`create_app`: the ASGI application."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from surelock.server.errors import ApiError, internal_error
from surelock.server.guard import Guard
from surelock.server.openapi import set_document
from surelock.server.page_files import page_routes
from surelock.server.routes import generating_routes, information_routes, token_routes
from surelock.server.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    FimRequest,
    InfillRequest,
    TokenizeRequest,
)
from surelock.server.service import Service


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
    for routes in (generating_routes, token_routes, information_routes):
        app.include_router(routes(service))
    for kind in (ApiError, HTTPException, Exception):
        app.add_exception_handler(kind, _on_error)
    models = (CompletionRequest, ChatRequest, FimRequest, InfillRequest, TokenizeRequest, DetokenizeRequest)
    set_document(app, models, service.limits)
    app.router.routes += page_routes()
    return Guard(app, service, adds_request_id=adds_request_id)


async def _on_error(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        code, message = _ROUTING.get(error.status_code, ("http_error", "the request cannot be answered"))
        error = ApiError(error.status_code, code, message, headers=error.headers or {})
    return error.response() if isinstance(error, ApiError) else internal_error().response()


_ROUTING: Final = {
    404: ("not_found", "there is no such route"),
    405: ("method_not_allowed", "this route has other methods"),
}
