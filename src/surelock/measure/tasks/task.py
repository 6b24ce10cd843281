"""A kind of problem: how one is drawn, solved and checked."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from surelock.measure.tasks.problem import UNREADABLE, Verdict

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
