"""`Task`, a row that can be decoded, and `Failure`, one that cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from surelock.batch.row import Row
from surelock.errors import ParameterError, shown
from surelock.params import SamplingParams
from surelock.prompts import Prompt

Form = Literal["plain", "completion", "chat"]

MAX_NAME_LENGTH: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A row as it will be decoded.

    Attributes:
        form: of its record.
        name: its custom_id, if it has one.
        prompt: for `LLM.encode`; a conversation has messages instead.
        suffix: text after a string prompt; the tokens to generate are a gap between the two.
    """

    row: Row
    form: Form
    name: str | None
    params: SamplingParams
    prompt: Prompt | None = None
    suffix: str | None = None
    messages: Sequence[Mapping[str, str]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A row that has no answer, and why."""

    row: Row
    form: Form
    name: str | None
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What rows do not say themselves.

    Attributes:
        params: parameters that a row does not give.
        seed: of the job.
        prompt_column: where a plain row has its text.
    """

    params: SamplingParams
    seed: int
    prompt_column: str = "prompt"


def check_name(values: Mapping[str, Any]) -> str | None:
    """The row's custom_id, or None where there is none. An integer is taken as its digits.

    Raises:
        ParameterError: it is no text of 1 to 512 characters.
    """
    name = values.get("custom_id")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if name is not None and (not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_LENGTH):
        raise ParameterError(f"custom_id is {shown(name)}; it must be a string of 1 to {MAX_NAME_LENGTH} characters")
    return name
