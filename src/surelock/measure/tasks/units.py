"""Conversion between a unit and the smaller one it is made of."""

from __future__ import annotations

import random
from typing import Any, Final

from surelock.measure.tasks.task import Meta, worked_task

# Large unit, small unit, how many small ones a large one has.
_UNITS: Final = (
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("meters", "centimeters", 100),
    ("kilograms", "grams", 1000),
    ("kilometers", "meters", 1000),
    ("feet", "inches", 12),
    ("dollars", "cents", 100),
    ("dozens", "eggs", 12),
)


def _draw(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    unit = rng.randrange(len(_UNITS))
    large, small, size = _UNITS[unit]
    whole, rest = rng.randint(2, {1: 9, 2: 20, 3: 40}[level]), rng.randint(1, size - 1)
    to_large = level > 1 and rng.random() < 0.5
    question = (
        f"Write {whole * size + rest} {small} as {large} and {small}."
        if to_large
        else f"How many {small} are {whole} {large} and {rest} {small}?"
    )
    return question, {"unit": unit, "whole": whole, "rest": rest, "to_large": to_large}


def _work(meta: Meta) -> list[str]:
    large, small, size = _UNITS[meta["unit"]]
    whole, rest = meta["whole"], meta["rest"]
    product = whole * size
    lines = [f"1 of the {large} is {size} {small}."]
    if meta["to_large"]:
        return [*lines, f"{size} x {whole} = {product}.", f"{product + rest} - {product} = {rest}."]
    return [*lines, f"{whole} x {size} = {product}.", f"{product} + {rest} = {product + rest}."]


def _result(meta: Meta) -> str:
    large, small, size = _UNITS[meta["unit"]]
    if meta["to_large"]:
        return f"{meta['whole']} {large} and {meta['rest']} {small}"
    return f"{meta['whole'] * size + meta['rest']} {small}"


UNIT = worked_task(_draw, _work, _result)
