"""A kind of problem: how one is drawn, solved and checked, and the words that several kinds use."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
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

Meta = Mapping[str, Any]
Draw = Callable[[random.Random, int], tuple[str, dict[str, Any]]]

_RESULT: Final = re.compile(r"Answer: *(.*?)\.? *(?:\n|$)")


@dataclass(frozen=True, slots=True)
class Task:
    """Three functions of a kind of problem.

    Attributes:
        draw: (source of randomness, level) -> (question, meta).
        solve: meta -> the answer with worked steps.
        check: (meta, text) -> verdict; computes the truth from meta.
    """

    draw: Draw
    solve: Callable[[Meta], str]
    check: Callable[[Meta, str], Verdict]


def worked_task(
    draw: Draw, work: Callable[[Meta], list[str]], result: Callable[[Meta], str], *, any_ending: bool = False
) -> Task:
    """A task whose answer is worked lines, then "Answer: RESULT.".

    Args:
        draw: as in `Task`.
        work: the worked lines.
        result: the result, computed in another way than in `work`.
        any_ending: whether more text between the worked lines and the result leaves the steps right.
    """

    def solve(meta: Meta) -> str:
        return "\n".join([*work(meta), f"Answer: {result(meta)}."])

    def check(meta: Meta, text: str) -> Verdict:
        found = _RESULT.findall(text)
        if not found:
            return UNREADABLE
        final = found[-1].strip() == result(meta)
        own = text.strip()
        worked = own.startswith("\n".join(work(meta))) if any_ending else own == solve(meta)
        return Verdict(final=final, steps=final and worked, form=True)

    return Task(draw, solve, check)


def words(text: str) -> tuple[str, ...]:
    """The words of a text with spaces between them."""
    return tuple(text.split())


NAMES: Final = words(
    "Anna Ben Carla David Emma Felix Grace Henry Iris Jack Kate Leo Maria Noah Olga Paul Rosa Sam Tina Victor Wendy "
    "Adam Bella Carl Dora Eric Fiona George Helen Ivan Julia Kevin Laura Martin Nina Oscar"
)
CITIES: Final = words(
    "Paris London Rome Berlin Madrid Oslo Vienna Lisbon Dublin Prague Athens Warsaw Cairo Tokyo Delhi Lima Quito "
    "Boston Denver Austin"
)
FOODS: Final = words("apples pears plums eggs rolls cakes cookies oranges lemons peaches melons onions")
