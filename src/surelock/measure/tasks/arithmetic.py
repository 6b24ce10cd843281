"""Addition and subtraction by columns, multiplication by parts."""

from __future__ import annotations

import random
from typing import Any, Final

from surelock.measure.tasks.task import Meta, worked_task

_COLUMNS: Final = ("Ones", "Tens", "Hundreds", "Thousands", "Ten thousands")


def _number(rng: random.Random, num_digits: int) -> int:
    return rng.randint(10 ** (num_digits - 1), 10**num_digits - 1)


def _draw_sum(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    num_digits = 2 if level == 1 else rng.choice([3, 4]) if level == 2 else 3
    terms = [_number(rng, num_digits) for _ in range(3 if level == 3 else 2)]
    first = ", ".join(map(str, terms[:-1]))
    return f"Add {first} and {terms[-1]}. Show the columns.", {"terms": terms}


def _work_sum(meta: Meta) -> list[str]:
    rests = list(meta["terms"])
    lines: list[str] = []
    carry = 0
    while any(rests):
        digits = [rest % 10 for rest in rests]
        total = sum(digits) + carry
        shown = " + ".join(map(str, [*digits, carry] if carry else digits))
        carry = total // 10
        lines.append(f"{_COLUMNS[len(lines)]}: {shown} = {total}, write {total % 10}, carry {carry}.")
        rests = [rest // 10 for rest in rests]
    if carry:
        lines.append(f"Write the carry {carry} in front.")
    return lines


def _draw_difference(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    smaller, larger = sorted(_number(rng, level + 1) for _ in range(2))
    return f"Subtract {smaller} from {larger}. Show the columns.", {"larger": larger, "smaller": smaller}


def _work_difference(meta: Meta) -> list[str]:
    larger, smaller = meta["larger"], meta["smaller"]
    lines: list[str] = []
    borrow = 0
    while larger:
        upper, lower = larger % 10 - borrow, smaller % 10
        borrow = int(upper < lower)
        upper += 10 * borrow
        end = ", borrow 1." if borrow else "."
        lines.append(f"{_COLUMNS[len(lines)]}: {upper} - {lower} = {upper - lower}{end}")
        larger, smaller = larger // 10, smaller // 10
    return lines


def _draw_product(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    left = rng.randint(101, 999) if level == 3 else rng.randint(11, 99)
    right = rng.randint(11, 99) if level == 2 else rng.randint(2, 9)
    return f"Multiply {left} by {right}. Show the parts.", {"left": left, "right": right}


def _work_product(meta: Meta) -> list[str]:
    left, right = meta["left"], meta["right"]
    if right < 10:
        digits = str(left)
        parts = [int(digit) * 10**place for place, digit in zip(range(len(digits))[::-1], digits, strict=True)]
        parts = [part for part in parts if part]
        lines = [f"{left} is {' + '.join(map(str, parts))}."]
        factors = [(part, right) for part in parts]
    else:
        tens, ones = right // 10 * 10, right % 10
        lines = [f"{right} is {tens} + {ones}."]
        factors = [(left, tens), (left, ones)]
    lines += [f"{first} x {second} = {first * second}." for first, second in factors]
    products = [first * second for first, second in factors]
    total = products[0]
    for product in products[1:]:
        lines.append(f"{total} + {product} = {total + product}.")
        total += product
    return lines


ADD = worked_task(_draw_sum, _work_sum, lambda meta: str(sum(meta["terms"])), any_ending=True)
SUB = worked_task(
    _draw_difference, _work_difference, lambda meta: str(meta["larger"] - meta["smaller"]), any_ending=True
)
MUL = worked_task(_draw_product, _work_product, lambda meta: str(meta["left"] * meta["right"]), any_ending=True)
