"""The OpenAPI document: bodies are read by hand, so the routes say themselves what they take and give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from surelock.server.schemas import Strict

JSON: Final = "application/json"
_ENVELOPE: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_FAILURES: Final = {
    400: "A field has a wrong value.",
    401: "The key is missing or wrong.",
    403: "The Host header does not name this server.",
    404: "There is no such model or route.",
    408: "The request came too slowly.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too many requests with this key.",
    431: "The headers are too large.",
    500: "The model or the server failed.",
    503: "The queue is full, or the server is shutting down.",
    504: "The deadline has passed.",
}
_READ_FAILURES: Final = (400, 401, 403, 404, 431, 500, 503)


def documented(model: type[BaseModel] | None, summary: str, *media: str) -> dict[str, Any]:
    """Arguments of a route's decorator; model is that of the body, media what it answers with, by default JSON."""
    failures = _FAILURES if model is not None else {code: _FAILURES[code] for code in _READ_FAILURES}
    content = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses: dict[int, Any] = {code: {"description": text, "content": content} for code, text in failures.items()}
    responses[200] = {"description": "The answer.", "content": {each: {} for each in media or (JSON,)}}
    options: dict[str, Any] = {"summary": summary, "responses": responses, "response_model": None}
    if model is not None:
        reference = {"$ref": f"#/components/schemas/{model.__name__}"}
        body = {"required": True, "content": {JSON: {"schema": reference}}}
        options["openapi_extra"] = {"requestBody": body}
    return options


def set_document(app: FastAPI, models: Sequence[type[Strict]], limits: Mapping[str, object]) -> None:
    """Make `app.openapi` give a document that holds the schemas of these bodies, under these limits."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas["Error"] = _ENVELOPE
            for model in models:
                own = model.model_json_schema(ref_template="#/components/schemas/{model}")
                for name, field in own["properties"].items():
                    if name not in own.get("required", ()):
                        own["properties"][name] = _or_null(field)
                if model.rules:
                    own["allOf"] = list(model.rules)
                schemas |= _filled(own.pop("$defs", {}), limits)
                schemas[model.__name__] = _filled(own, limits)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _or_null(field: dict[str, Any]) -> dict[str, Any]:
    """A field that need not be given: null means not given."""
    notes = {name: field.pop(name) for name in ("default", "title") if name in field}
    options = field["anyOf"] if field.keys() == {"anyOf"} else [field]
    return notes | {"anyOf": [*options, *[null for null in [{"type": "null"}] if null not in options]]}


def _filled(schema: Any, limits: Mapping[str, object]) -> Any:
    """The schema with the limit in place of each of their names."""
    if isinstance(schema, dict):
        return {name: _filled(value, limits) for name, value in schema.items()}
    if isinstance(schema, list):
        return [_filled(item, limits) for item in schema]
    return limits[schema] if isinstance(schema, str) and schema.startswith("$") else schema
