"""The rule for fields that a request model does not have.

1. Fields of OpenAI's interface that could not change the answer are accepted and ignored (`IGNORED`).
2. Fields that would change it and have no meaning here are accepted at the value that asks for nothing, and refused at
   any other (`NEUTRAL`).
3. Every other field is refused, with a suggestion if it looks like a misspelling.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from surelock.errors import shown
from surelock.server.errors import ApiError
from surelock.server.schemas import LockFields, StreamOptions

IGNORED: Final = frozenset(
    {
        "metadata",
        "no_stop_trim",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "skip_special_tokens",
        "store",
        "user",
        "verbosity",
    }
)
# Each with the values that ask for nothing. null always does.
NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    "audio": (),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "guided_json": (),
    "guided_regex": (),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "return_hidden_states": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_k": (-1, 0),
    "top_p": (1,),
    "web_search_options": (),
}


_NESTED: Final[Mapping[str, type[BaseModel]]] = {"lock": LockFields, "stream_options": StreamOptions}


def check_fields(model: type[BaseModel], value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `value` that the model has; null means not given.

    Raises:
        ApiError: 400, `unsupported_parameter` or `unknown_parameter`.
    """
    known: dict[str, Any] = {}
    for name, given in value.items():
        if name in model.model_fields:
            if isinstance(given, dict) and name in _NESTED:
                known[name] = check_fields(_NESTED[name], given)
            elif given is not None:
                known[name] = given
        elif name in NEUTRAL:
            _check_neutral(name, given)
        elif name not in IGNORED:
            raise _unknown(model, name)
    return known


def _check_neutral(name: str, given: object) -> None:
    # True is equal to 1, and is no number.
    if given is None or any(
        given == value and isinstance(given, bool) == isinstance(value, bool) for value in NEUTRAL[name]
    ):
        return
    raise ApiError(
        400,
        "unsupported_parameter",
        f"{name} is {shown(given)}; it has no meaning for a model that fills positions in any order: leave it out",
        name,
    )


def _unknown(model: type[BaseModel], name: str) -> ApiError:
    near = difflib.get_close_matches(name[:64], [*model.model_fields, *NEUTRAL, *IGNORED], n=1)
    hint = f"; did you mean {near[0]}?" if near else "; leave it out"
    return ApiError(400, "unknown_parameter", f"{shown(name)} is no parameter of this request{hint}", name[:64])
