"""A problem with a checkable answer, and what a checker says about a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Split = Literal["train", "test"]

LEVELS: Final = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Problem:
    """One question.

    Attributes:
        task: name in `TASKS`.
        level: 1 (easy) to 3.
        question: what the model is asked, as one chat turn.
        answer: a right answer with worked steps.
        meta: the numbers and words the question is made of, as plain JSON values; all a checker needs.
    """

    task: str
    level: int
    question: str
    answer: str
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is right about an answer.

    Attributes:
        final: its result.
        steps: its result and every worked line.
        form: a result could be found in it, right or wrong.
    """

    final: bool
    steps: bool
    form: bool


WRONG: Final = Verdict(final=False, steps=False, form=True)
UNREADABLE: Final = Verdict(final=False, steps=False, form=False)
