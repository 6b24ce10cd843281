"""Two families of rules compared where they cost the same, between the settings that were measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

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


def at_equal_cost(
    own: Curve, other: Curve, *, seed: int, shape: Callable[[Array], Array] = lambda values: values
) -> list[Difference]:
    """Differences at places spread over the costs both families reach, and their mean last; empty if they share none.

    Args:
        own, other: over the same prompts.
        seed: of the bootstrap.
        shape: applied to values, before they are subtracted.
    """
    everyone = np.ones(len(own.cost_unit))
    places = shared_places(own.points(everyone)[0], other.points(everyone)[0])
    if places is None:
        return []
    drawn = np.random.default_rng(seed).multinomial(len(everyone), everyone / len(everyone), size=NUM_RESAMPLES)
    differences = [
        shape(own.at(places, weights)) - shape(other.at(places, weights))
        for weights in (everyone, *drawn.astype(np.float64))
    ]
    values = [shape(curve.at(places, everyone)) for curve in (own, other)]
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
