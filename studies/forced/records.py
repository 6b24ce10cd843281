"""What is kept of a rule while its runs are measured, plain rows, and the tables that are made of them at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from studies.study import Row, Rows, average, grouped, quantile, where
from surelock.measure.statistics import weighted_mean

# What a lock is classed by: prompt positions, then its age when it locked. A generated position of age 0 is a ghost.
LOCK_CLASSES: Final = ("prompt", "0", "1", "2-3", "4+")
GHOST: Final = LOCK_CLASSES.index("0")
# Fewer sequences make no interval.
MIN_SEQUENCES: Final = 5
# Beside its drift in each layer, what the harm of a lock is correlated with.
PREDICTORS: Final = ("kl_at_lock", "uncertainty_at_lock", "age_at_lock", "steps_since", "nearest_masked")
# Fewer pairs make no correlation.
MIN_PAIRS: Final = 8


@dataclass(slots=True)
class Record:
    """Everything measured of one rule.

    Attributes:
        steps: of each batch and step: KL of every masked row, and counts of rows and positions.
        groups: of each canvas and step that was computed again with only one group of its locks frozen: the masked
            rows, how many of them flip, their KL summed, and the locks. `axis` says by what the group was told apart.
        effects: of each lock that was set free on its own.
        first_flip: {prompt: first step with a flip}, of those that had one.
        free: of each prompt: the runs that make their own decisions.
        spread: of each token of theirs (`run`: locked or control) unmasked since the first difference: whether it
            differs from no lock, and the bins of the steps since then and of the positions from there.
    """

    steps: list[Row] = field(default_factory=list)
    groups: list[Row] = field(default_factory=list)
    effects: list[Row] = field(default_factory=list)
    first_flip: dict[int, int] = field(default_factory=dict)
    free: list[Row] = field(default_factory=list)
    spread: list[Row] = field(default_factory=list)


def total(rows: Sequence[Row], name: str) -> int:
    """Of a column."""
    return sum(row[name] for row in rows)


def mean(name: str, rows: Sequence[Row], amount: str, number: str | None = None) -> Row:
    """The sum of one column over that of another, or over the number of rows, as columns `name`, _low and _high.

    The interval is a 95 % bootstrap over prompts, because what is of one prompt depends on each other.
    """
    amounts: defaultdict[int, float] = defaultdict(float)
    numbers: defaultdict[int, int] = defaultdict(int)
    for row in rows:
        amounts[row["prompt"]] += row[amount]
        numbers[row["prompt"]] += row[number] if number else 1
    found: Row = {name: sum(amounts.values()) / sum(numbers.values()), f"{name}_low": None, f"{name}_high": None}
    if len(numbers) >= MIN_SEQUENCES:
        interval = weighted_mean(list(amounts.values()), list(numbers.values()), seed=0)
        found |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return found


def group_columns(rows: Sequence[Row]) -> Row:
    """Columns of a table for the rows of one group of locks."""
    num = max(total(rows, "rows"), 1)
    return {
        "canvas_steps": len(rows), "locks": total(rows, "locks"), "masked_rows": total(rows, "rows"),
        "kl_mean": total(rows, "kl") / num, **mean("kl_per_lock", rows, "kl", "locks"),
        "flip_rate": total(rows, "flips") / num,
    }  # fmt: skip


def tables(name: str, record: Record) -> Rows:
    """Rows of one rule."""
    found: Rows = {
        "forced": [_summary(record)],
        "forced_steps": [{"step": step, **_steps(rows)} for (step,), rows in sorted(grouped(record.steps, "step"))],
        "forced_groups": [
            {"axis": axis, "group": group, **group_columns(rows)}
            for (axis, group), rows in sorted(grouped(record.groups, "axis", "group"), key=_place)
        ],
        "forced_effects": list(_effects(record)),
        "forced_predictors": _predictors(record),
        "forced_free": record.free,
    }  # fmt: skip
    for table, start in (("forced_growth", "steps_since"), ("forced_spread", "distance")):
        found[table] = [
            {"run": run, start: low, "tokens": len(rows), **mean("share", rows, "differs")}
            for (run, low), rows in sorted(grouped(record.spread, "run", start))
        ]
    return {table: [{"rule": name, **row} for row in rows] for table, rows in found.items()}


def _place(item: tuple[tuple[Any, ...], Any]) -> tuple[str, int]:
    axis, group = item[0]
    return axis, LOCK_CLASSES.index(group) if axis == "age" else int(group) if axis == "layer" else 0


def _summary(record: Record) -> Row:
    parted, controls, agreed, active = (
        [row[name] for row in record.free if row[name] is not None]
        for name in ("first_difference", "control_agreement", "agreement", "active_ratio")
    )
    return {
        "num_prompts": len(record.free), "active_ratio": average(active),
        **_steps(sorted(record.steps, key=itemgetter("step"))),
        "ghost_share": total(record.steps, "ghosts") / max(total(record.steps, "frozen"), 1),
        "first_flip": quantile(list(record.first_flip.values()), 0.5), "prompts_that_part": len(parted),
        "first_difference": quantile(parted, 0.5), "agreement": average(agreed), "control_agreement": average(controls),
    }  # fmt: skip


def _steps(rows: Sequence[Row]) -> Row:
    """Of one step or several."""
    kl = np.concatenate([row["kl"] for row in rows])
    return {
        "masked_rows": len(kl), "kl_mean": average(kl.astype(np.float64)), "kl_median": quantile(kl, 0.5),
        "kl_p95": quantile(kl, 0.95), "kl_max": quantile(kl, 1.0),
        "flip_rate": total(rows, "flips") / max(len(kl), 1),
        "commit_flip_rate": total(rows, "commit_flips") / max(total(rows, "commits"), 1),
        "frozen_ratio": total(rows, "frozen") / total(rows, "positions"),
    }  # fmt: skip


def _effects(record: Record) -> Iterator[Row]:
    """The harm one lock does on its own, by class."""
    for lock_class in LOCK_CLASSES:
        rows = where(record.effects, lock_class=lock_class)
        harm = [row["harm"] for row in rows]
        if rows:
            yield {
                "lock_class": lock_class, "locks": len(rows), **mean("harm_mean", rows, "harm"),
                "harm_median": quantile(harm, 0.5), "harm_p95": quantile(harm, 0.95),
                "harmful_share": average([each > 0 for each in harm]),
            }  # fmt: skip


def _predictors(record: Record) -> list[Row]:
    """Spearman's rank correlation of a lock's harm with what is known of the lock, over single locks."""
    harm, rows = np.array([row["harm"] for row in record.effects]), []
    for column in record.effects[0] if record.effects else ():
        part, _, layer = column.partition("_drift_")
        if layer or column in PREDICTORS:
            value = np.array([row[column] for row in record.effects], dtype=np.float64)
            known = np.isfinite(value)
            name, number = (f"{part} drift", int(layer)) if layer else (column, None)
            found = spearman(value[known], harm[known])
            rows.append({"predictor": name, "layer": number, "locks": int(known.sum()), "spearman": found})
    return rows


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Rank correlation, equal values sharing their mean rank; None where it is not defined."""
    if len(a) < MIN_PAIRS:
        return None
    ranks = []
    for values in (a, b):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((counts.cumsum() - (counts - 1) / 2)[inverse])
    return None if min(each.std() for each in ranks) == 0 else float(np.corrcoef(ranks[0], ranks[1])[0, 1])
