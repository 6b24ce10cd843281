"""Writing a small Python function; the checker runs it."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from surelock.measure.tasks.program import ProgramError, allowed_function, parse_program, run_function
from surelock.measure.tasks.task import UNREADABLE, WRONG, Meta, Task, Verdict, words

# What is asked, in words and in Python, and what it means. {bound} and {operand} are small numbers.
_CONDITIONS: Final[tuple[tuple[str, str, Callable[[int, int], bool]], ...]] = (
    ("are greater than {bound}", "x > {bound}", lambda x, bound: x > bound),
    ("are less than {bound}", "x < {bound}", lambda x, bound: x < bound),
    ("are even", "x % 2 == 0", lambda x, _: x % 2 == 0),
    ("are odd", "x % 2 == 1", lambda x, _: x % 2 == 1),
    ("can be divided by {bound}", "x % {bound} == 0", lambda x, bound: x % bound == 0),
)
_CHANGES: Final[tuple[tuple[str, str, Callable[[int, int], int]], ...]] = (
    ("adds {operand} to each", "x + {operand}", lambda x, operand: x + operand),
    ("multiplies each by {operand}", "x * {operand}", lambda x, operand: x * operand),
    ("squares each", "x * x", lambda x, _: x * x),
    ("subtracts {operand} from each", "x - {operand}", lambda x, operand: x - operand),
)
_RESULTS: Final[tuple[tuple[str, str, Callable[[list[int]], int | list[int]]], ...]] = (
    ("returns the list", "out", lambda numbers: numbers),
    ("returns the sum", "sum(out)", sum),
    ("returns how many there are", "len(out)", len),
    ("returns the largest, or 0 if there is none", "max(out, default=0)", lambda numbers: max(numbers, default=0)),
)
_FUNCTION_NAMES: Final = words("pick select keep numbers values result filter_list change")


def _draw(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    bound, operand = rng.randint(2, 9), rng.randint(2, 9)
    condition, change = rng.randrange(len(_CONDITIONS)), rng.randrange(len(_CHANGES))
    result = 0 if level == 1 else rng.randrange(len(_RESULTS))
    loop = level == 3 or rng.random() < 0.4
    name = rng.choice(_FUNCTION_NAMES)
    taken = _CONDITIONS[condition][0].format(bound=bound)
    changed = _CHANGES[change][0].format(operand=operand)
    question = (
        f"Write a Python function {name}(xs) that takes the numbers that {taken}, {changed} and {_RESULTS[result][0]}."
    )
    meta = {"condition": condition, "bound": bound, "change": change, "operand": operand, "result": result}
    return question + (" Use a loop." if loop else ""), meta | {"loop": loop, "name": name}


def _solve(meta: Meta) -> str:
    condition = _CONDITIONS[meta["condition"]][1].format(bound=meta["bound"])
    change = _CHANGES[meta["change"]][1].format(operand=meta["operand"])
    body = (
        f"    out = []\n    for x in xs:\n        if {condition}:\n            out.append({change})"
        if meta["loop"]
        else f"    out = [{change} for x in xs if {condition}]"
    )
    return f"def {meta['name']}(xs):\n{body}\n    return {_RESULTS[meta['result']][1]}"


def _check(meta: Meta, text: str) -> Verdict:
    tree = parse_program(text.strip())
    if tree is None:
        return UNREADABLE
    function = allowed_function(tree, meta["name"])
    if function is None or not _is_right(function, meta):
        return WRONG
    has_loop = any(isinstance(node, ast.For) for node in ast.walk(function))
    return Verdict(final=True, steps=has_loop or not meta["loop"], form=True)


def _is_right(function: ast.FunctionDef, meta: Meta) -> bool:
    try:
        return all(bool(run_function(function, numbers) == _expected(meta, numbers)) for numbers in _inputs())
    except ProgramError:
        return False


def _expected(meta: Meta, numbers: tuple[int, ...]) -> int | list[int]:
    holds, changed = _CONDITIONS[meta["condition"]][2], _CHANGES[meta["change"]][2]
    return _RESULTS[meta["result"]][2]([changed(x, meta["operand"]) for x in numbers if holds(x, meta["bound"])])


@cache
def _inputs() -> tuple[tuple[int, ...], ...]:
    """Lists the function is run on: each number alone, all, none, and some at random."""
    rng = random.Random(5)
    mixed = [tuple(rng.randint(0, 40) for _ in range(rng.randint(1, 9))) for _ in range(23)]
    return (*((number,) for number in range(41)), tuple(range(41)), (), *mixed)


CODE = Task(_draw, _solve, _check)
