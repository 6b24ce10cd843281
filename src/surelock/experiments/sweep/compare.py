"""Rows of a comparison at equal active ratio, and what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

from surelock.experiments import wording
from surelock.experiments.result import Column, Row
from surelock.experiments.sweep.answers import Answers
from surelock.experiments.sweep.equal_cost import Array, Curve, Difference, at_equal_cost, stacked

EQUAL_COLUMNS: Final = (
    Column("measure", "measure"),
    Column("own", "value", "{:.3f}"),
    Column("other", "compared with", "{:.3f}"),
    Column("difference", "difference", "{:+.4f}"),
    Column("low", "95 % from", "{:+.4f}"),
    Column("high", "to", "{:+.4f}"),
    Column("is_better", "better"),
)
PLACE_COLUMNS: Final = (Column("place"), *EQUAL_COLUMNS)
EQUAL_NOTE: Final = (
    "At equal active ratio: the value between measured settings, on straight lines, as the mean of five places between "
    "the ends that both families reach (each place is in a CSV file); with a 95 % bootstrap interval over prompts. "
    "Gen-PPL is compared as nats a token of the judge. Better: whether the interval lies on the better side of 0; a "
    "dash if it holds 0."
)
AGREEMENT, NATS, RIGHT, TASK_AGREEMENT = "agreement", "nats a token", "right answers", "agreement, problems"


def compare_answers(
    own: Sequence[Answers], other: Sequence[Answers], what: Literal["texts", "problems"], *, seed: int
) -> list[Row]:
    """Values of `PLACE_COLUMNS`: each measure at every place, the mean (None) last; empty if no cost is shared."""
    measures = (AGREEMENT, NATS) if what == "texts" else (RIGHT, TASK_AGREEMENT)
    rows: list[Row] = []
    for measure in measures:
        found = at_equal_cost(_curve(own, measure), _curve(other, measure), seed=seed)
        rows += [_row(measure, each) for each in found]
    return rows


def means(rows: Sequence[Row]) -> list[Row]:
    """Only the means over the places, without the place."""
    return [{name: value for name, value in row.items() if name != "place"} for row in rows if row["place"] is None]


def verdict(row: Row) -> str:
    """A mean in words."""
    interval = f"({wording.signed(row['low'])} to {wording.signed(row['high'])})"
    if row["measure"] == NATS:
        interval = f"({math.exp(row['low']):.3f} to {math.exp(row['high']):.3f})"
        return f"Gen-PPL {math.exp(row['difference']):.3f} times {interval}"
    return f"{row['measure']} {wording.signed(row['difference'])} {interval}"


def _row(measure: str, found: Difference) -> Row:
    sign = -1 if measure == NATS else 1
    better = "-"
    if found.low * found.high > 0:
        better = "yes" if sign * found.difference > 0 else "no"
    return {
        "place": found.cost,
        "measure": measure,
        "own": found.own,
        "other": found.other,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "is_better": better,
    }


def _curve(family: Sequence[Answers], measure: str) -> Curve:
    runs = family[0].runs
    cost = stacked([[run.active for run in each.runs] for each in family])
    cost_unit = stacked([[run.num_positions * run.num_steps for run in runs]])[0]
    ones: Array = cost * 0 + 1
    if measure == NATS:
        value = stacked([[nats for nats, _ in each.scores] for each in family])
        return Curve(cost, cost_unit, value, stacked([[num for _, num in each.scores] for each in family]))
    values = [each.right if measure == RIGHT else each.agreement for each in family]
    return Curve(cost, cost_unit, stacked(values), ones)


def tally(rows: Sequence[Row], what: str, better: str) -> str:
    """How many of the means are better or worse."""
    num_better, num_worse = (sum(row["is_better"] == word for row in rows) for word in ("yes", "no"))
    return (
        f"Of {len(rows)} comparisons with {what} at equal cost, {num_better} show {better} better, {num_worse} worse, "
        f"and {len(rows) - num_better - num_worse} neither (95 % intervals, not corrected for their number)."
    )
