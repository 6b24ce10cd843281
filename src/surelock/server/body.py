"""From the bytes of a request to a checked model: size, time, JSON, number of values, fields."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from surelock.errors import shown
from surelock.server.errors import ApiError, bad_request, client_gone
from surelock.server.fields import check_fields
from surelock.server.service import Service
from surelock.server.settings import ServerSettings

MAX_DEPTH: Final = 16
# Of one object. Models have a few dozen, and an unknown one costs an error.
MAX_KEYS: Final = 1000
# What any model's requests may hold beside token ids: 1,000 messages with their parts.
_MIN_VALUES: Final = 1 << 16
# Larger ones are parsed beside the event loop; these take a millisecond or two, less than the way there and back.
_SMALL: Final = 16 << 10

Model = TypeVar("Model", bound=BaseModel)


async def read_body(request: Request, settings: ServerSettings) -> bytes:
    """The whole body; ApiError if it is too large (413), too slow (408), encoded or not of the type of JSON (415)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A browser asks before it sends JSON to another origin, and does not for a form, or for nothing named.
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(415, "unsupported_media_type", f"content-type is {shown(kind)}; send application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "unsupported_encoding", "the body has a content-encoding; send it as plain JSON")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > settings.max_body:
        raise _too_large(settings)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout):
            async for part in request.stream():
                body += part
                if len(body) > settings.max_body:
                    raise _too_large(settings)
    except ClientDisconnect:
        raise client_gone() from None
    except TimeoutError:
        raise ApiError(
            408, "body_timeout", f"the body did not arrive within {settings.body_timeout:g} s", headers=_CLOSE
        ) from None
    return bytes(body)


async def parse(service: Service, request: Request, body: bytes, model: type[Model]) -> Model:
    """The request model of a body that was read; raises as `parse_json` and `validate`, or 499 if the client left."""
    max_values = _MIN_VALUES + service.max_token_ids

    def parsed() -> Model:
        return validate(model, parse_json(body, max_values))

    return parsed() if len(body) <= _SMALL else await service.encode(parsed, request.receive)


def parse_json(body: bytes, max_values: int) -> dict[str, Any]:
    """The JSON object of a body.

    NaN, 1e999, lone surrogates, bad UTF-8, deep nesting, more than `max_values` values and keys given twice are
    refused.

    Raises:
        ApiError: 400; the message says where.
    """
    outside = _STRING.sub(b"", body)
    # Each value but the first of a list or object follows a comma.
    if sum(map(outside.count, (b",", b"[", b"{"))) > max_values:
        raise bad_request(f"the body holds more than {max_values} values; send several requests")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # The line of orjson quotes nothing of the body.
        raise bad_request(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise bad_request(f"the body is {shown(value)}; it must be a JSON object", code="invalid_json")
    if _num_keys(value) != outside.count(b":"):
        # orjson takes the last of two equal keys, and a proxy in front of us may have taken the first.
        json.loads(body, object_pairs_hook=_without_duplicates)
    return value


def validate(model: type[Model], value: dict[str, Any]) -> Model:
    """The request model of a JSON object; ApiError (400) if a field is unknown, has no meaning or a wrong value."""
    try:
        return model.model_validate(check_fields(model, value))
    except ValidationError as error:
        # A few, whatever was sent: lists stop at their first one, and objects have a bounded number of keys.
        raise _invalid(error) from None


def _invalid(error: ValidationError) -> ApiError:
    """The deepest complaint about the first field; a union complains once for each of its members."""
    found = error.errors(include_url=False, include_context=False)
    found = [each for each in found if each["loc"][:1] == found[0]["loc"][:1]]
    deepest = max(len(_path(each["loc"])) for each in found)
    path = next(path for each in found if len(path := _path(each["loc"])) == deepest)
    found = [each for each in found if _path(each["loc"]) == path]
    name = ".".join(path)
    texts = [each["msg"].removeprefix("Input should be ").removeprefix("Value error, ") for each in found]
    wanted = " or ".join(dict.fromkeys(text[:1].lower() + text[1:] for text in texts))
    if found[0]["type"] == "missing":
        return bad_request(f"{name} is missing", name, "missing_parameter")
    if found[0]["type"] == "extra_forbidden":
        return bad_request(f"{name} is no field of it; leave it out", name, "unknown_parameter")
    should = "" if wanted.startswith("it must") else "it should be "
    return bad_request(f"{name} is {shown(found[0]['input'])}; {should}{wanted}", name)


def _path(location: tuple[int | str, ...]) -> list[str]:
    """The fields and indices of a place in the body; the rest are names of a union's members."""
    return [str(part) for part in location if isinstance(part, int) or (part.isidentifier() and part not in _MEMBERS)]


def _num_keys(value: dict[str, Any]) -> int:
    """How many keys all objects have; ApiError if one has too many, or if they are nested too deeply."""
    level: list[dict[str, Any] | list[Any]] = [value]
    total = 0
    for _ in range(MAX_DEPTH + 1):
        nums = [len(each) for each in level if isinstance(each, dict)]
        if max(nums, default=0) > MAX_KEYS:
            raise bad_request(f"an object of the body has {max(nums)} keys; the limit is {MAX_KEYS}: leave some out")
        total += sum(nums)
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
    if level:
        raise bad_request(f"the body is nested more than {MAX_DEPTH} levels deep", code="invalid_json")
    return total


def _without_duplicates(pairs: list[tuple[str, Any]]) -> None:
    names = set()
    for name, _ in pairs:
        if name in names:
            raise bad_request(f"the key {shown(name)} is given twice", code="invalid_json")
        names.add(name)


def _too_large(settings: ServerSettings) -> ApiError:
    return ApiError(413, "body_too_large", f"the body is larger than {settings.max_body} bytes", headers=_CLOSE)


# As long as it goes, closed or not, so that no body is gone through twice.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_MEMBERS: Final = frozenset({"str", "int", "bool", "float", "LockFields"})
_CLOSE: Final = {"Connection": "close"}
