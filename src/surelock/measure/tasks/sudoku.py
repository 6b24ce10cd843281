"""4x4 sudoku with one solution."""

from __future__ import annotations

import random
import re
from functools import cache
from itertools import permutations
from typing import Any, Final

from surelock.measure.tasks.task import UNREADABLE, Meta, Task, Verdict

_ROW: Final = re.compile(r"[1-4] [1-4] [1-4] [1-4]")
_BLANK: Final = "_"
_ROW_STARTS: Final = (0, 4, 8, 12)
_BOX_STARTS: Final = (0, 2, 8, 10)


@cache
def _grids() -> tuple[str, ...]:
    """All 288 solved grids, 16 digits each, row by row."""
    rows = ["".join(row) for row in permutations("1234")]
    found = []
    for first in rows:
        for second in (row for row in rows if _fills_boxes(first, row)):
            for third in rows:
                fourth = "".join(
                    (set("1234") - {*column}).pop() if len({*column}) == 3 else _BLANK
                    for column in zip(first, second, third, strict=True)
                )
                if len(set(fourth) - {_BLANK}) == 4 and _fills_boxes(third, fourth):
                    found.append(first + second + third + fourth)
    return tuple(found)


def _fills_boxes(upper: str, lower: str) -> bool:
    return not set(upper[:2]) & set(lower[:2]) and not set(upper[2:]) & set(lower[2:])


@cache
def _grids_with(cell: int, digit: str) -> int:
    """The grids with this digit in this cell, as bits: bit i for the i-th grid."""
    return sum(1 << index for index, grid in enumerate(_grids()) if grid[cell] == digit)


def _solutions(puzzle: str) -> int:
    """The grids that agree with the given digits of a puzzle, as bits."""
    agreeing = (1 << len(_grids())) - 1
    for cell, digit in enumerate(puzzle):
        if digit != _BLANK:
            agreeing &= _grids_with(cell, digit)
    return agreeing


def _draw(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    cells = list(rng.choice(_grids()))
    num_blanks = {1: 5, 2: 8, 3: 10}[level]
    for cell in rng.sample(range(16), 16):
        if cells.count(_BLANK) == num_blanks:
            break
        digit, cells[cell] = cells[cell], _BLANK
        if _solutions("".join(cells)).bit_count() > 1:
            cells[cell] = digit
    puzzle = "".join(cells)
    rows = "\n".join(_rows(puzzle))
    question = f"Solve this 4x4 sudoku. Every row, column and 2x2 box has 1 2 3 4.\n{rows}"
    return question, {"puzzle": puzzle}


def _solve(meta: Meta) -> str:
    return _worked(_grids()[_solutions(meta["puzzle"]).bit_length() - 1])


def _worked(grid: str) -> str:
    """The grid, then its columns and boxes."""
    columns = [f"Column {number + 1}: {' '.join(grid[number::4])}." for number in range(4)]
    boxes = [
        f"Box {number}: {' '.join(grid[start : start + 2] + grid[start + 4 : start + 6])}."
        for number, start in enumerate(_BOX_STARTS, start=1)
    ]
    return "\n".join([*_rows(grid), *columns, *boxes])


def _rows(grid: str) -> list[str]:
    return [" ".join(grid[start : start + 4]) for start in _ROW_STARTS]


def _check(meta: Meta, text: str) -> Verdict:
    rows = [line.strip() for line in text.strip().split("\n")][:4]
    if len(rows) < 4 or not all(_ROW.fullmatch(row) for row in rows):
        return UNREADABLE
    grid = "".join(rows).replace(" ", "")
    final = grid in _grids() and all(given in (_BLANK, own) for given, own in zip(meta["puzzle"], grid, strict=True))
    return Verdict(final=final, steps=final and text.strip() == _worked(grid), form=True)


SUDOKU = Task(_draw, _solve, _check)
