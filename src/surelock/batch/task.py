"""`Row`, one line of work; `Task`, a row that can be decoded; and `Failure`, one that cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Literal

from surelock.errors import ParameterError, shown
from surelock.params import SamplingParams
from surelock.text.prompts import Prompt

if TYPE_CHECKING:
    from surelock.output import RequestOutput

Form = Literal["plain", "completion", "chat"]

MAX_NAME_LENGTH: Final = 512
# Of a row in OpenAI's format, beside its custom_id.
OPENAI_COLUMNS: Final = ("method", "url", "body")
# A file without line breaks, or without an end to its quotes, must not fill the memory.
MAX_ROW_BYTES: Final = 1 << 26


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the input file.

    Attributes:
        number: counts the rows of the file from 1.
        digest: 8 bytes of a hash of the row's content as an integer.
        start: where reading may begin again to find this row first.
        values: what it says; empty if it could not be read.
        fault: why it could not be read, else None.
    """

    number: int
    digest: int
    start: int
    values: Mapping[str, Any]
    fault: str | None = None

    @property
    def identity(self) -> str:
        """32 hex digits that depend on the row's number and content, and on nothing else."""
        return f"{self.number:016x}{self.digest:016x}"

    def seed(self, job_seed: int) -> int:
        """Of the row's noise: 0 to 2**63 - 1, from the seed of the job and the row's identity."""
        return digest_of(f"{job_seed}:{self.identity}".encode()) >> 1


def digest_of(content: bytes) -> int:
    """64 bits of a hash."""
    return int.from_bytes(blake2b(content, digest_size=8).digest())


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


Finished = tuple[Task, "RequestOutput"] | Failure


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
