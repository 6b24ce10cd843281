"""What a purchase costs, and the change."""

from __future__ import annotations

import random
from typing import Any

from surelock.measure.tasks.task import FOODS, NAMES, Meta, worked_task

Item = tuple[str, int, int]


def _draw(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    items: list[Item] = [(food, rng.randint(2, 9), rng.randint(2, 12)) for food in rng.sample(FOODS, level)]
    total = sum(number * price for _, number, price in items)
    paid = None if level == 1 else (total // 10 + rng.randint(1, 4)) * 10
    name = rng.choice(NAMES)
    bought = ", ".join(f"{number} {food} for {price} dollars each" for food, number, price in items)
    asked = (
        "How many dollars is that?" if paid is None else f"{name} pays with {paid} dollars. How many dollars come back?"
    )
    return f"{name} buys {bought}. {asked}", {"items": items, "paid": paid}


def _work(meta: Meta) -> list[str]:
    lines, total = [], 0
    for index, (food, number, price) in enumerate(meta["items"]):
        cost = number * price
        lines.append(f"The {food} cost {number} x {price} = {cost} dollars.")
        if index:
            lines.append(f"Together: {total} + {cost} = {total + cost} dollars.")
        total += cost
    if meta["paid"] is not None:
        lines.append(f"Change: {meta['paid']} - {total} = {meta['paid'] - total} dollars.")
    return lines


def _result(meta: Meta) -> str:
    total = sum(number * price for _, number, price in meta["items"])
    return str(total if meta["paid"] is None else meta["paid"] - total)


SHOP = worked_task(_draw, _work, _result)
