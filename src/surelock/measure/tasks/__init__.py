"""Seventeen kinds of problem whose answers a program can check, each at three levels.

A question belongs to the training or the test split by a hash, so no test question is ever drawn for training.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from hashlib import sha1
from types import MappingProxyType
from typing import Final

from surelock.errors import ParameterError, shown
from surelock.measure.tasks.arithmetic import ADD, MUL, SUB
from surelock.measure.tasks.code import CODE
from surelock.measure.tasks.dates import DATE, WEEKDAY
from surelock.measure.tasks.letters import COUNT, SPELL
from surelock.measure.tasks.lists import SEQ, SORT
from surelock.measure.tasks.logic import LOGIC
from surelock.measure.tasks.records import JSON, TABLE
from surelock.measure.tasks.shop import SHOP
from surelock.measure.tasks.stories import STORY
from surelock.measure.tasks.sudoku import SUDOKU
from surelock.measure.tasks.task import LEVELS, Problem, Split, Task, Verdict
from surelock.measure.tasks.units import UNIT

__all__ = [
    "LEVELS",
    "TASKS",
    "Problem",
    "Split",
    "Task",
    "Verdict",
    "check",
    "draw_problems",
    "is_test",
    "make_problem",
]

TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {
        "add": ADD,
        "sub": SUB,
        "mul": MUL,
        "sort": SORT,
        "seq": SEQ,
        "spell": SPELL,
        "count": COUNT,
        "weekday": WEEKDAY,
        "date": DATE,
        "unit": UNIT,
        "logic": LOGIC,
        "sudoku": SUDOKU,
        "json": JSON,
        "table": TABLE,
        "story": STORY,
        "shop": SHOP,
        "code": CODE,
    }
)

# One question in so many is for testing only.
_TEST_SHARE: Final = 40
# Far more than it takes to meet the one test question among 81.
_MAX_DRAWS: Final = 5_000


def make_problem(rng: random.Random, task: str, level: int, split: Split) -> Problem:
    """Draw a problem of a split; equal states of `rng` give equal problems.

    Raises:
        ParameterError: no such task, level or split, or the split has no such problem (logic at level 1 has 32
            questions, none of them for testing).
    """
    own = _task(task, level, split)
    for _ in range(_MAX_DRAWS):
        question, meta = own.draw(rng, level)
        if is_test(question) == (split == "test"):
            return Problem(task, level, question, own.solve(meta), meta)
    raise ParameterError(f"task {task} has no {split} problem at level {level}; use another level")


def draw_problems(rng: random.Random, task: str, level: int, split: Split, num: int) -> list[Problem]:
    """`num` problems with different questions; fewer where the split seems to have no more.

    Raises:
        ParameterError: no such task, level or split.
    """
    own = _task(task, level, split)
    problems: dict[str, Problem] = {}
    num_in_vain = 0
    while len(problems) < num and num_in_vain < _MAX_DRAWS:
        question, meta = own.draw(rng, level)
        num_in_vain += 1
        if is_test(question) == (split == "test") and question not in problems:
            problems[question] = Problem(task, level, question, own.solve(meta), meta)
            num_in_vain = 0
    return list(problems.values())


def check(problem: Problem, text: str) -> Verdict:
    """What is right about `text` as an answer; the truth is computed from `problem.meta`, never from its answer."""
    return TASKS[problem.task].check(problem.meta, text)


def is_test(question: str) -> bool:
    """Whether a question is for testing only: one in 40, by a hash."""
    digest = sha1(f"Q: {question}\nA: ".encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4]) % _TEST_SHARE == 0


def _task(task: str, level: int, split: str) -> Task:
    if task not in TASKS:
        raise ParameterError(f"task is {shown(task)}; use one of {', '.join(TASKS)}")
    if level not in LEVELS:
        raise ParameterError(f"level is {shown(level)}; use 1, 2 or 3")
    if split not in ("train", "test"):
        raise ParameterError(f"split is {shown(split)}; use train or test")
    return TASKS[task]
