"""Sorting by taking the smallest or largest, and continuing an arithmetic sequence."""

from __future__ import annotations

import random
from typing import Any

from surelock.measure.tasks.task import Meta, worked_task


def _draw_sort(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    low, high = {1: (3, 4), 2: (5, 6), 3: (7, 9)}[level]
    numbers = rng.sample(range(1, 100), rng.randint(low, high))
    rising = rng.random() < 0.6
    order = "from small to large" if rising else "from large to small"
    return f"Sort these numbers {order}: {_spaced(numbers)}.", {"numbers": numbers, "rising": rising}


def _work_sort(meta: Meta) -> list[str]:
    rest, lines = list(meta["numbers"]), []
    while len(rest) > 1:
        taken = min(rest) if meta["rising"] else max(rest)
        rest.remove(taken)
        lines.append(f"Take {taken}, left: {_spaced(rest)}.")
    return lines


def _draw_sequence(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    num_more = {1: 3, 2: 5, 3: 7}[level]
    start = rng.randint(1, 60)
    step = rng.choice([*range(-9, 0), *range(1, 13)]) if level < 3 else rng.randint(11, 35)
    # Never below zero.
    start += max(0, -step * (num_more + 5))
    given = [start + index * step for index in range(4)]
    question = f"Continue the pattern with {num_more} more numbers: {_listed(given)}."
    return question, {"given": given, "num_more": num_more}


def _work_sequence(meta: Meta) -> list[str]:
    step = meta["given"][1] - meta["given"][0]
    last = meta["given"][-1]
    sign = "+" if step > 0 else "-"
    lines = [f"Each step {'adds' if step > 0 else 'takes away'} {abs(step)}."]
    for _ in range(meta["num_more"]):
        lines.append(f"{last} {sign} {abs(step)} = {last + step}.")
        last += step
    return lines


def _continued(meta: Meta) -> str:
    given = meta["given"]
    step = given[1] - given[0]
    return _listed([given[-1] + step * index for index in range(1, meta["num_more"] + 1)])


def _spaced(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


SORT = worked_task(
    _draw_sort,
    _work_sort,
    lambda meta: _spaced(sorted(meta["numbers"], reverse=not meta["rising"])),
    any_ending=True,
)
SEQ = worked_task(_draw_sequence, _work_sequence, _continued)
