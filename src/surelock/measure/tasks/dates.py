"""The day of the week, and the date, a number of days from now."""

from __future__ import annotations

import random
from datetime import date, timedelta
from typing import Any, Final

from surelock.measure.tasks.task import Meta, words, worked_task

_DAYS: Final = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_MONTHS: Final = words("January February March April May June July August September October November December")
_MONTH_LENGTHS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# Any year of 365 days before another one.
_YEAR: Final = 2022


def _draw_weekday(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    num_days = rng.randint(2, {1: 20, 2: 60, 3: 300}[level])
    today = rng.randrange(7)
    return f"Today is {_DAYS[today]}. What day is it in {num_days} days?", {"today": today, "num_days": num_days}


def _work_weekday(meta: Meta) -> list[str]:
    today, num_days = meta["today"], meta["num_days"]
    weeks, rest = divmod(num_days, 7)
    lines = [
        f"A week has 7 days. {num_days} = 7 x {weeks} + {rest}.",
        f"So we step {rest} days from {_DAYS[today]}.",
    ]
    if rest:
        lines.append(f"Steps: {', '.join(_DAYS[(today + step) % 7] for step in range(1, rest + 1))}.")
    return lines


def _draw_date(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    month = rng.randrange(12)
    num_days = rng.randint(5, {1: 25, 2: 50, 3: 100}[level])
    day = rng.randint(1, _MONTH_LENGTHS[month])
    question = f"What date is {num_days} days after {_MONTHS[month]} {day}? Use a year of 365 days."
    return question, {"month": month, "day": day, "num_days": num_days}


def _work_date(meta: Meta) -> list[str]:
    month, day, left = meta["month"], meta["day"], meta["num_days"]
    lines = []
    while day + left > _MONTH_LENGTHS[month]:
        length, following = _MONTH_LENGTHS[month], (month + 1) % 12
        step = length - day + 1
        left -= step
        lines.append(
            f"{_MONTHS[month]} has {length} days, so {step} days bring us to {_MONTHS[following]} 1, {left} left."
        )
        month, day = following, 1
    return [*lines, f"{day} + {left} = {day + left}."]


def _date_after(meta: Meta) -> str:
    end = date(_YEAR, meta["month"] + 1, meta["day"]) + timedelta(days=meta["num_days"])
    return f"{_MONTHS[end.month - 1]} {end.day}"


WEEKDAY = worked_task(_draw_weekday, _work_weekday, lambda meta: _DAYS[(meta["today"] + meta["num_days"]) % 7])
DATE = worked_task(_draw_date, _work_date, _date_after)
