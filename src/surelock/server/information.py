"""What a server tells about itself: models, version, probes, metrics."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from surelock.server.errors import dump_json
from surelock.server.metrics import CONTENT_TYPE
from surelock.server.openapi import documented
from surelock.server.service import Service


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
