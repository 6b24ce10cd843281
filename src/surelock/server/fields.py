"""The rule for fields that a request model does not have.

1. Fields that could not change the answer are accepted and ignored (`IGNORED` of `openai_fields`).
2. Fields that would change it and have no meaning here are accepted at the value that asks for nothing, and refused at
   any other (`NEUTRAL`).
3. Every other field is refused, with a suggestion if it looks like a misspelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from surelock.errors import shown
from surelock.openai_fields import IGNORED, NEUTRAL, asks_for_nothing, suggestion
from surelock.params import LOCK_FIELDS_WITH_NONE
from surelock.server.errors import ApiError
from surelock.server.schemas import LockFields, StreamOptions

_NESTED: Final[Mapping[str, type[BaseModel]]] = {"lock": LockFields, "stream_options": StreamOptions}


def check_fields(model: type[BaseModel], value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `value` that the model has; null means not given, but for those of a lock that may be none.

    Raises:
        ApiError: 400, `unsupported_parameter` or `unknown_parameter`.
    """
    known: dict[str, Any] = {}
    for name, given in value.items():
        if name in model.model_fields:
            if isinstance(given, dict) and name in _NESTED:
                known[name] = check_fields(_NESTED[name], given)
            elif given is not None or (model is LockFields and name in LOCK_FIELDS_WITH_NONE):
                known[name] = given
        elif name in NEUTRAL:
            _check_neutral(name, given)
        elif name not in IGNORED:
            raise _unknown(model, name)
    return known


def _check_neutral(name: str, given: object) -> None:
    if asks_for_nothing(given, NEUTRAL[name]):
        return
    raise ApiError(
        400,
        "unsupported_parameter",
        f"{name} is {shown(given)}; it has no meaning for a model that fills positions in any order: leave it out",
        name,
    )


def _unknown(model: type[BaseModel], name: str) -> ApiError:
    hint = suggestion(name, [*model.model_fields, *NEUTRAL, *IGNORED]) or "; leave it out"
    return ApiError(400, "unknown_parameter", f"{shown(name)} is no parameter of this request{hint}", name[:64])
