"""Reading records: sentences to JSON, and a sum over a table."""

from __future__ import annotations

import json
import random
from typing import Any, Final

from surelock.measure.tasks.task import CITIES, FOODS, NAMES, UNREADABLE, Meta, Task, Verdict, words, worked_task

_JOBS: Final = words("teacher doctor nurse baker farmer pilot lawyer painter writer driver cook dentist")
_PERSON: Final = (
    "{name} is {age} years old and lives in {city}.",
    "In {city} you can meet {name}, who is {age}.",
    "{name}, aged {age}, moved to {city} last year.",
    "The {age} year old {name} has a flat in {city}.",
)
_WORK: Final = (
    "{name} works as a {job} and has {pets} pets.",
    "Work: {job}. Pets at home: {pets}.",
    "At work {name} is a {job}; there are {pets} pets at home.",
)


def _draw_json(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    records, sentences = [], []
    for name in rng.sample(NAMES, 2 if level == 3 else 1):
        record: dict[str, Any] = {"name": name, "age": rng.randint(18, 80), "city": rng.choice(CITIES)}
        sentences.append(rng.choice(_PERSON).format(**record))
        if level > 1:
            record |= {"job": rng.choice(_JOBS), "pets": rng.randint(0, 5)}
            sentences.append(rng.choice(_WORK).format(**record))
            if rng.random() < 0.6:
                sentences.append(_distraction(rng, name))
        records.append(record)
    each = ", one object a line" if len(records) > 1 else ""
    question = f"Write this as JSON with the keys {', '.join(records[0])}{each}.\n{' '.join(sentences)}"
    return question, {"records": records}


def _distraction(rng: random.Random, name: str) -> str:
    """A sentence with a name or a city that belongs in no record."""
    other = rng.choice([one for one in NAMES if one != name])
    city = rng.choice(CITIES)
    return rng.choice(
        [
            f"A friend called {other} often visits.",
            f"The neighbour is {other}.",
            f"The bus to {city} stops near the house.",
        ]
    )


def _solve_json(meta: Meta) -> str:
    return "\n".join(map(json.dumps, meta["records"]))


def _check_json(meta: Meta, text: str) -> Verdict:
    try:
        found = [json.loads(line) for line in text.strip().split("\n") if line.strip()]
    except (ValueError, RecursionError):
        return UNREADABLE
    right = found == meta["records"]
    return Verdict(final=right, steps=right, form=True)


def _draw_table(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    names = rng.sample(NAMES, {1: 3, 2: 4, 3: 6}[level])
    rows = [[name, rng.choice(CITIES[:5]), rng.randint(2, 40)] for name in names]
    city = None if level == 1 else rng.choice(rows)[1]
    food = rng.choice(FOODS)
    table = "\n".join(f"{name},{home},{num_sold}" for name, home, num_sold in rows)
    question = (
        f"This table says how many {food} each person sold.\nname,city,sold\n{table}\n"
        f"How many {food} are sold in {city or 'all'}?"
    )
    return question, {"rows": rows, "city": city, "food": food}


def _work_table(meta: Meta) -> list[str]:
    lines, total = [], 0
    for name, home, num_sold in meta["rows"]:
        if meta["city"] not in (None, home):
            lines.append(f"{name} is in {home}, skip.")
            continue
        lines.append(f"{name} sold {num_sold}: {total} + {num_sold} = {total + num_sold}.")
        total += num_sold
    return lines


def _table_result(meta: Meta) -> str:
    total = sum(num_sold for _, home, num_sold in meta["rows"] if meta["city"] in (None, home))
    return f"{total} {meta['food']}"


JSON = Task(_draw_json, _solve_json, _check_json)
TABLE = worked_task(_draw_table, _work_table, _table_result)
