"""Two families of rules compared where they cost the same, between the settings that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from studies.measures import Outcome, answers, judged
from studies.study import Row, Rows

Array = npt.NDArray[np.float64]

NUM_RESAMPLES: Final = 1_000
NUM_PLACES: Final = 5


@dataclass(frozen=True, slots=True)
class Curve:
    """One family, its scale varied over V settings, on the same P prompts.

    Attributes:
        cost, cost_unit: [V, P] and [P]: the cost of a setting is sum(cost) / sum(cost_unit).
        value, value_unit: [V, P] each: its value is sum(value) / sum(value_unit).
    """

    cost: Array
    cost_unit: Array
    value: Array
    value_unit: Array

    def points(self, weights: Array) -> tuple[Array, Array]:
        """Costs and values [V] of prompts with these weights [P], cheapest first."""
        costs = self.cost @ weights / (self.cost_unit @ weights)
        values = (self.value @ weights) / (self.value_unit @ weights)
        order = np.argsort(costs, kind="stable")
        return costs[order], values[order]

    def at(self, places: Array, weights: Array) -> Array:
        """Values at these costs, on straight lines between the settings."""
        return np.interp(places, *self.points(weights))


def at_equal_cost(own: Curve, other: Curve, *, seed: int) -> list[Row]:
    """Value of a family minus that of another over the same prompts, at costs spread over those that both reach.

    Columns place (the cost; None in the last row, which is of the mean over all places), own, other, difference, low
    and high (a 95 % bootstrap interval over prompts). No row if they share no cost.
    """
    everyone = np.ones(len(own.cost_unit))
    places = shared_places(own.points(everyone)[0], other.points(everyone)[0])
    if places is None:
        return []
    drawn = np.random.default_rng(seed).multinomial(len(everyone), everyone / len(everyone), size=NUM_RESAMPLES)
    values = [_with_mean(curve.at(places, everyone)) for curve in (own, other)]
    weights = (everyone, *drawn.astype(np.float64))
    # [1 + resamples, places + 1]: the mean last
    table = _with_mean(np.stack([own.at(places, each) - other.at(places, each) for each in weights]))
    low, high = np.nanquantile(table[1:], [0.025, 0.975], axis=0)
    names = ("place", "own", "other", "difference", "low", "high")
    columns = ([*places.tolist(), None], *(each.tolist() for each in (*values, table[0], low, high)))
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _with_mean(values: Array) -> Array:
    return np.concatenate((values, values.mean(-1, keepdims=True)), axis=-1)


def shared_places(own: Array, other: Array) -> Array | None:
    """Costs that both reach, evenly spread and the ends left out; None if there are none."""
    low, high = max(own.min(), other.min()), min(own.max(), other.max())
    return np.linspace(low, high, NUM_PLACES + 2)[1:-1] if low < high else None


NOTE: Final = (
    "At equal active ratio: the value between measured settings, on straight lines, as the mean of five places between "
    "the ends that both families reach (each place is in a CSV file); with a 95 % bootstrap interval over prompts. "
    "Gen-PPL is compared as nats a token of the judge. Better: whether the interval lies on the better side of 0; a "
    "dash if it holds 0. The intervals are not corrected for their number."
)
AGREEMENT, NATS, RIGHT, TASK_AGREEMENT = "agreement", "nats a token", "right answers", "agreement, problems"


def against(found: Sequence[Outcome], *, table: str, other: str, pairs: Sequence[tuple[str, Row]]) -> Rows:
    """Families of decoders against the family `other`: means in `table`, every place in `table_places`.

    pairs: the name of a family, which is the first column of a decoder's label, and what its label and that of the
        other family have besides.
    """
    rows: Rows = {table: [], f"{table}_places": []}
    first = next(iter(found[0].decoder.label))
    measures = (AGREEMENT, NATS) if found[0].cases[0].problem is None else (RIGHT, TASK_AGREEMENT)
    for name, more in pairs:
        families = [
            [each for each in found if ({first: family} | more).items() <= each.decoder.label.items()]
            for family in (name, other)
        ]
        for measure in measures:
            own, reference = (_curve(family, measure) for family in families)
            for row in at_equal_cost(own, reference, seed=found[0].bench.seed):
                is_sure, sign = row["low"] * row["high"] > 0, -1 if measure == NATS else 1
                better = "-" if not is_sure else "yes" if sign * row["difference"] > 0 else "no"
                row = {**found[0].point, first: name, **more, "measure": measure, **row, "is_better": better}
                rows[f"{table}_places"].append(row)
                if row["place"] is None:
                    rows[table].append({column: value for column, value in row.items() if column != "place"})
    return rows


def _curve(family: Sequence[Outcome], measure: str) -> Curve:
    cost = _stacked([[run.active for run in each.runs] for each in family])
    cost_unit = _stacked([run.possible for run in family[0].runs])
    if measure == NATS:
        scores = _stacked([judged(each.bench, each.cases, each.runs) for each in family])
        nats, tokens = np.ascontiguousarray(np.moveaxis(scores, 2, 0))
        return Curve(cost, cost_unit, nats, tokens)
    is_right = measure == RIGHT
    values = [answers(each.cases, each.runs) if is_right else each.agreement() for each in family]
    return Curve(cost, cost_unit, _stacked(values), np.ones_like(cost))


def _stacked(rows: Sequence[Any]) -> Array:
    return np.asarray(rows, dtype=np.float64)
