"""The two forms of a row, plain and OpenAI's, and from a row to what is to be done with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, Final

from surelock.batch.task import OPENAI_COLUMNS, Defaults, Failure, Form, Row, Task, check_name
from surelock.errors import ParameterError, PromptError, shown
from surelock.openai_fields import IGNORED, NEUTRAL, asks_for_nothing, suggestion
from surelock.params import LOCK_FIELDS_WITH_NONE, LockParams, SamplingParams
from surelock.text.prompts import CANVAS_KEY, TOKEN_IDS_KEY, Prompt


def read_task(row: Row, defaults: Defaults, *, twin: int | None = None) -> Task | Failure:
    """The task of a row, or what is wrong with it.

    Args:
        twin: number of an earlier row with the same custom_id.
    """
    form: Form = "plain"
    name = None
    try:
        if row.fault is not None:
            raise PromptError(row.fault)
        is_openai = is_openai_row(row.values, defaults.prompt_column)
        form = form_of(row.values) if is_openai else "plain"
        name = check_name(row.values)
        if twin is not None:
            raise ParameterError(f"custom_id {shown(name)} is also that of row {twin}; give each row its own")
        return read_openai_row(row, defaults) if is_openai else read_plain_row(row, defaults)
    except (ParameterError, PromptError) as error:
        return Failure(row=row, form=form, name=name, error=error)


_MESSAGES: Final = "messages"
# Other columns are welcome, so only one that is almost a parameter is refused.
_ALIKE: Final = 0.8


def read_plain_row(row: Row, defaults: Defaults) -> Task:
    """The task of a row. Columns that are no parameters are left alone, unless one looks like a misspelt parameter.

    Raises:
        ParameterError, PromptError: the row has no prompt or several, or a parameter is out of its limits.
    """
    values, column = row.values, defaults.prompt_column
    name = check_name(values)
    contents = [key for key in contents_of(column) if values.get(key) is not None]
    if len(contents) != 1:
        problem = f"has {' and '.join(contents)}" if contents else f"has no {column}"
        raise PromptError(
            f"the row {problem}; it must have exactly one of {column}, {_MESSAGES}, {TOKEN_IDS_KEY}, {CANVAS_KEY} "
            "(--prompt-column names the first)"
        )
    check_names(values, column, "the row")
    given = {key: value for key, value in values.items() if key in PARAMETERS and key != column}
    params = sampling_params(given, defaults.params, seed=row.seed(defaults.seed))
    (key,) = contents
    content = values[key]
    if key == _MESSAGES:
        return Task(row=row, form="plain", name=name, params=params, messages=content)
    if key == column and not isinstance(content, str):
        raise PromptError(f"{column} is {shown(content)}; it must be a string")
    return Task(row=row, form="plain", name=name, params=params, prompt=content if key == column else {key: content})


def contents_of(prompt_column: str) -> tuple[str, ...]:
    """Columns of which a plain row has exactly one."""
    return (prompt_column, _MESSAGES, TOKEN_IDS_KEY, CANVAS_KEY)


def columns_of(prompt_column: str) -> tuple[str, ...]:
    """All columns that mean something."""
    return (*contents_of(prompt_column), "custom_id", *PARAMETERS, *OPENAI_COLUMNS)


def check_names(names: Iterable[str], prompt_column: str, owner: str) -> None:
    """Refuse a column that looks like a misspelt parameter; others are welcome.

    Args:
        owner: of the columns, for the message.

    Raises:
        ParameterError: naming the column.
    """
    known = columns_of(prompt_column)
    for name in names:
        if name not in known and (hint := suggestion(name, PARAMETERS, cutoff=_ALIKE)):
            raise ParameterError(f"{owner} has the column {shown(name)}{hint} Rename it")


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


def is_openai_row(values: Mapping[str, Any], prompt_column: str) -> bool:
    """Whether a row is meant to be in this format; a plain one may have columns of these names too."""
    url, body = values.get("url"), values.get("body")
    marks = (isinstance(url, str) and url in FORM_OF_URL, isinstance(body, dict))
    return all(marks) or (any(marks) and all(values.get(name) is None for name in contents_of(prompt_column)))


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


# `allow_mask` exists for parity tests only.
PARAMETERS: Final = tuple(field.name for field in fields(SamplingParams) if field.name != "allow_mask")
_LOCK_FIELDS: Final = tuple(field.name for field in fields(LockParams))


def sampling_params(given: Mapping[str, Any], defaults: SamplingParams, *, seed: int) -> SamplingParams:
    """The job's defaults with what a row gives in their place.

    Args:
        given: some of `PARAMETERS`; null is not given. `stop` may be one string; `lock` is an object whose missing
            fields are the default's and whose null gate, prompt rule and refresh are none, or false for no locking.
        seed: of a row that gives none.

    Raises:
        ParameterError: a value is out of its limits.
    """
    values: dict[str, Any] = {"seed": seed} | {name: value for name, value in given.items() if value is not None}
    if isinstance(values.get("stop"), str):
        values["stop"] = (values["stop"],)
    if "lock" in values:
        values["lock"] = _lock_params(values["lock"], defaults.lock)
    return replace(defaults, **values)


def _lock_params(value: object, default: LockParams | None) -> LockParams | None:
    if value is False:
        return None
    if value is True:
        return default or LockParams()
    if not isinstance(value, Mapping):
        raise ParameterError(f"lock is {shown(value)}; it must be an object such as {{'kl_threshold': 5e-4}}, or false")
    for name in value:
        if name not in _LOCK_FIELDS:
            known = ", ".join(_LOCK_FIELDS)
            raise ParameterError(
                f"lock has the unknown field {shown(name)}{suggestion(str(name), _LOCK_FIELDS)} ({known})"
            )
    given = {name: own for name, own in value.items() if own is not None or name in LOCK_FIELDS_WITH_NONE}
    return replace(default or LockParams(), **given)
