"""Rows in OpenAI's batch format: `custom_id`, `method`, `url` and a `body` of one of two endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from surelock.batch.parameters import PARAMETERS, sampling_params
from surelock.batch.row import Row
from surelock.batch.task import Defaults, Form, Task, check_name
from surelock.errors import ParameterError, PromptError, shown
from surelock.openai_fields import IGNORED, NEUTRAL, asks_for_nothing, suggestion
from surelock.prompts import TOKEN_IDS_KEY, Prompt

FORM_OF_URL: Final[Mapping[str, Form]] = {"/v1/completions": "completion", "/v1/chat/completions": "chat"}

# One model is loaded, whatever `model` says, and a row has no stream.
_IGNORED: Final = IGNORED | {"model", "stream_options"}
# A row has one answer, whole, without probabilities.
_NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    **NEUTRAL,
    "n": (1,),
    "stream": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
}


def is_openai_row(values: Mapping[str, Any]) -> bool:
    """Whether a row is meant to be in this format."""
    return "body" in values or "url" in values


def form_of(values: Mapping[str, Any]) -> Form:
    """Form of the record of a row that may be malformed."""
    url = values.get("url")
    return FORM_OF_URL.get(url, "completion") if isinstance(url, str) else "completion"


def read_openai_row(row: Row, defaults: Defaults) -> Task:
    """The task of a row.

    Raises:
        ParameterError, PromptError: the row is malformed or asks for what does not exist here.
    """
    values = row.values
    name = check_name(values)
    if name is None:
        raise ParameterError("custom_id is missing; give each row a string of its own")
    method, url, body = values.get("method"), values.get("url"), values.get("body")
    if method != "POST":
        raise ParameterError(f"method is {shown(method)}; it must be 'POST'")
    if not isinstance(url, str) or url not in FORM_OF_URL:
        raise ParameterError(f"url is {shown(url)}; it must be one of {', '.join(FORM_OF_URL)}")
    if not isinstance(body, dict):
        raise ParameterError(f"body is {shown(body)}; it must be an object")
    form = FORM_OF_URL[url]
    given = _parameters(body, form, url)
    params = sampling_params(given, defaults.params, seed=row.seed(defaults.seed))
    if form == "chat":
        return Task(row=row, form=form, name=name, params=params, messages=_messages(body))
    prompt = _prompt(body)
    return Task(row=row, form=form, name=name, params=params, prompt=prompt, suffix=_suffix(body, prompt))


def _parameters(body: Mapping[str, Any], form: Form, url: str) -> dict[str, Any]:
    content = "messages" if form == "chat" else "prompt"
    given: dict[str, Any] = {}
    for name, value in body.items():
        if name in PARAMETERS:
            given[name] = value
        elif name == "max_completion_tokens" and form == "chat":
            if value is not None and body.get("max_tokens") not in (None, value):
                raise ParameterError("max_completion_tokens and max_tokens differ; leave one of them out")
            given["max_tokens"] = body.get("max_tokens") if value is None else value
        elif name == content or (name == "suffix" and form == "completion") or name in _IGNORED or value is None:
            continue
        elif name not in _NEUTRAL:
            hint = suggestion(name, (*PARAMETERS, content))
            raise ParameterError(f"{shown(name)} is not a parameter of {url} here{hint}")
        elif not asks_for_nothing(value, _NEUTRAL[name]):
            raise ParameterError(
                f"{name} is {shown(value)}, which a masked diffusion model's row has no use for here: leave it out"
            )
    return given


def _prompt(body: Mapping[str, Any]) -> Prompt:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        return {TOKEN_IDS_KEY: prompt}
    raise PromptError(
        f"prompt is {shown(prompt)}; it must be one string, or a list of token ids: one prompt for each row"
    )


def _suffix(body: Mapping[str, Any], prompt: Prompt) -> str | None:
    suffix = body.get("suffix") or None
    if suffix is not None and not isinstance(suffix, str):
        raise PromptError(f"suffix is {shown(suffix)}; it must be a string")
    if suffix is not None and not isinstance(prompt, str):
        raise PromptError("suffix stands beside a prompt that is a string, not token ids; give both as text")
    return suffix


def _messages(body: Mapping[str, Any]) -> list[Any]:
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise PromptError(f"messages is {shown(messages)}; it must be a list of {{'role': ..., 'content': ...}}")
    return [_with_plain_text(message) for message in messages]


def _with_plain_text(message: object) -> object:
    """The message with a content made of text parts as one text; anything else as it is, to be refused later."""
    parts = message.get("content") if isinstance(message, dict) else None
    if not isinstance(parts, list) or not isinstance(message, dict):
        return message
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise PromptError(
            f"content is {shown(parts)}; it must be a string or a list of {{'type': 'text', 'text': ...}}"
        )
    return message | {"content": "".join(map(str, texts))}
