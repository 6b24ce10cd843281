"""Truth of a chain of `and` and `or`, from left to right."""

from __future__ import annotations

import random
from typing import Any

from surelock.measure.tasks.task import Meta, worked_task


def _draw(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    facts = {name: rng.random() < 0.5 for name in "ABCD"[: level + 1]}
    terms = [f"not {name}" if rng.random() < 0.35 else name for name in facts]
    operators = [rng.choice(["and", "or"]) for _ in terms[1:]]
    expression = terms[0]
    for index, (operator, term) in enumerate(zip(operators, terms[1:], strict=True)):
        left = f"({expression})" if index else expression
        expression = f"{left} {operator} {term}"
    known = ", ".join(f"{name} is {_word(value)}" for name, value in facts.items())
    question = f"{known}. Is this true or false: {expression}?"
    return question, {"facts": facts, "terms": terms, "operators": operators}


def _work(meta: Meta) -> list[str]:
    values = _values(meta)
    lines = [f"{term} is {_word(value)}." for term, value in zip(meta["terms"], values, strict=True)]
    so_far = values[0]
    for operator, value in zip(meta["operators"], values[1:], strict=True):
        both = _applied(operator, so_far, value)
        lines.append(f"{_word(so_far)} {operator} {_word(value)} is {_word(both)}.")
        so_far = both
    return lines


def _result(meta: Meta) -> str:
    truth, *values = _values(meta)
    for operator, value in zip(meta["operators"], values, strict=True):
        truth = _applied(operator, truth, value)
    return _word(truth)


def _values(meta: Meta) -> list[bool]:
    return [meta["facts"][term.removeprefix("not ")] != term.startswith("not ") for term in meta["terms"]]


def _applied(operator: str, left: bool, right: bool) -> bool:
    return left and right if operator == "and" else left or right


def _word(value: bool) -> str:
    return str(value).lower()


LOGIC = worked_task(_draw, _work, _result)
