"""`ApiError`, the one envelope every failure leaves in, and what each error of the package becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from starlette.responses import Response

from surelock.errors import (
    EngineError,
    NonFiniteLogitsError,
    OutOfMemoryError,
    ParameterError,
    PromptError,
    PromptTooLongError,
    SureLockError,
    TokenizerError,
)

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@dataclass(eq=False)
class ApiError(Exception):
    """A refusal or failure of one HTTP request.

    Attributes:
        status: of the response.
        code: short and stable, for programs.
        message: one line, for people. Never holds text of a prompt beyond what `shown` quotes.
        param: the field it is about.
        headers: of the response, such as Retry-After.
    """

    status: int
    code: str
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """OpenAI's coarse kind of error."""
        return _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def envelope(self) -> dict[str, Any]:
        """The JSON object of the response, and of an event in a stream."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def body(self) -> bytes:
        """The envelope as JSON."""
        return dump_json(self.envelope())

    def response(self) -> Response:
        """The answer to the request."""
        return Response(self.body(), self.status, dict(self.headers), "application/json")


def dump_json(value: object) -> bytes:
    """JSON in UTF-8. Text of a broken decoder may hold lone surrogates, which become replacement characters."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_with_valid_text(value))


def _with_valid_text(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_with_valid_text(key): _with_valid_text(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_valid_text(item) for item in value]
    return value


def bad_request(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """The user's mistake, 400."""
    return ApiError(400, code, message, param)


def client_gone() -> ApiError:
    """The connection was closed. The answer is never read; log and metrics count it as nginx does."""
    return ApiError(499, "client_gone", "the client closed the connection")


def internal_error() -> ApiError:
    """Our mistake. What it was goes to the log, not to the client."""
    return ApiError(500, "internal_error", "the server made a mistake with this request; its log says which")


def as_api_error(error: SureLockError) -> ApiError:
    """What an error of the package means to an HTTP client."""
    message = str(error)
    if isinstance(error, PromptTooLongError):
        # OpenAI's code, by which clients know that they should shorten it.
        return bad_request(message, _field_of(message), "context_length_exceeded")
    if isinstance(error, ParameterError | PromptError | TokenizerError):
        return bad_request(message, _field_of(message))
    if isinstance(error, NonFiniteLogitsError):
        return ApiError(500, "nonfinite_logits", message)
    if isinstance(error, OutOfMemoryError):
        return ApiError(503, "out_of_memory", message, headers={"Retry-After": "5"})
    if isinstance(error, EngineError):
        return ApiError(503, "engine_error", "the engine stopped at an error; try again", headers={"Retry-After": "2"})
    return internal_error()


def _field_of(message: str) -> str | None:
    """Our messages open with the field they are about: `lock.kl_threshold is -1; it must be ...`."""
    name, separator, _ = message.partition(" is ")
    return name if separator and name.replace(".", "_").isidentifier() else None
