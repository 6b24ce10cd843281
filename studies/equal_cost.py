"""Two families of rules compared where they cost the same, between the settings that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from studies.measures import Outcome, answers, judged
from studies.study import Row, Rows
from surelock.measure.metrics import agreement

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


@dataclass(frozen=True, slots=True)
class Difference:
    """Value of a family minus that of another at the same cost, with a 95 % bootstrap interval over prompts.

    Attributes:
        cost: where; None for the mean over all places.
        own, other: their values there.
    """

    cost: float | None
    own: float
    other: float
    difference: float
    low: float
    high: float


def at_equal_cost(own: Curve, other: Curve, *, seed: int) -> list[Difference]:
    """Differences at places spread over the costs both families reach, and their mean last; empty if they share none.

    own, other: over the same prompts. seed: of the bootstrap.
    """
    everyone = np.ones(len(own.cost_unit))
    places = shared_places(own.points(everyone)[0], other.points(everyone)[0])
    if places is None:
        return []
    drawn = np.random.default_rng(seed).multinomial(len(everyone), everyone / len(everyone), size=NUM_RESAMPLES)
    differences = [
        own.at(places, weights) - other.at(places, weights) for weights in (everyone, *drawn.astype(np.float64))
    ]
    values = [curve.at(places, everyone) for curve in (own, other)]
    # [resamples, places + 1]: the mean last
    table = np.stack(differences)
    table = np.concatenate((table, table.mean(1, keepdims=True)), axis=1)
    low, high = np.nanquantile(table[1:], [0.025, 0.975], axis=0)
    columns = [np.append(each, each.mean()) for each in values]
    wheres: list[float | None] = [*places.tolist(), None]
    return [
        Difference(where, *(float(each[index]) for each in (*columns, table[0], low, high)))
        for index, where in enumerate(wheres)
    ]


def shared_places(own: Array, other: Array) -> Array | None:
    """Costs that both reach, evenly spread and the ends left out; None if there are none."""
    low, high = max(own.min(), other.min()), min(own.max(), other.max())
    if not low < high:
        return None
    return np.linspace(low, high, NUM_PLACES + 2)[1:-1]


def stacked(rows: Sequence[Sequence[float]]) -> Array:
    """[V, P] from lists."""
    return np.asarray(rows, dtype=np.float64)


NOTE: Final = (
    "At equal active ratio: the value between measured settings, on straight lines, as the mean of five places between "
    "the ends that both families reach (each place is in a CSV file); with a 95 % bootstrap interval over prompts. "
    "Gen-PPL is compared as nats a token of the judge. Better: whether the interval lies on the better side of 0; a "
    "dash if it holds 0. The intervals are not corrected for their number."
)
AGREEMENT, NATS, RIGHT, TASK_AGREEMENT = "agreement", "nats a token", "right answers", "agreement, problems"


def against(table: str, found: Sequence[Outcome], other: str, pairs: Sequence[tuple[str, Row]]) -> Rows:
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
            for difference in at_equal_cost(own, reference, seed=found[0].bench.seed):
                row = {**found[0].point, first: name, **more, **_row(measure, difference)}
                rows[f"{table}_places"].append({**row, "place": difference.cost})
                rows[table] += [row] if difference.cost is None else []
    return rows


def _row(measure: str, found: Difference) -> Row:
    sign = -1 if measure == NATS else 1
    better = "-"
    if found.low * found.high > 0:
        better = "yes" if sign * found.difference > 0 else "no"
    values = {name: getattr(found, name) for name in ("own", "other", "difference", "low", "high")}
    return {"measure": measure, **values, "is_better": better}


def _curve(family: Sequence[Outcome], measure: str) -> Curve:
    cost = stacked([[run.active for run in each.runs] for each in family])
    cost_unit = stacked([[run.possible for run in family[0].runs]])[0]
    if measure == NATS:
        scores = [judged(each.bench, each.cases, each.runs) for each in family]
        nats, numbers = ([[one[part] for one in of_each] for of_each in scores] for part in (0, 1))
        return Curve(cost, cost_unit, stacked(nats), stacked(numbers))
    values = [
        answers(each.cases, each.runs)
        if measure == RIGHT
        else [agreement(a.generated, b.generated) for a, b in zip(each.runs, each.baseline, strict=True)]
        for each in family
    ]
    return Curve(cost, cost_unit, stacked(values), cost * 0 + 1)
