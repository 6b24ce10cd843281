"""From what was recorded of the twins to rows of tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from surelock.eval.statistics import Interval
from surelock.eval.twin.certainty import mean_of
from surelock.eval.twin.measure import DELAYS
from surelock.eval.twin.records import LOCK_CLASSES, Group, Row, RuleRecord, SpreadKey, Sums, TwinRecord

Floats = NDArray[np.floating[Any]]

PARTS: Final = ("key", "value")
# Fewer pairs than these make no correlation.
MIN_PAIRS: Final = 8
# What the harm of a lock is correlated with, beside its drift in each layer.
PREDICTORS: Final = ("kl_at_lock", "uncertainty_at_lock", "age_at_lock", "steps_since", "nearest_masked")


def rule_rows(record: TwinRecord) -> list[Row]:
    """One row for each rule."""
    return [_rule_row(record, name, rule) for name, rule in record.rules.items()]


def _rule_row(record: TwinRecord, name: str, rule: RuleRecord) -> Row:
    steps = list(rule.steps.values())
    kl = np.concatenate([part for step in steps for part in step.kl])
    free = [row for row in record.free if row["rule"] == name]
    parted = [row["first_difference"] for row in free if row["first_difference"] is not None]
    num_frozen = sum(step.num_frozen for step in steps)
    num_commits = sum(step.num_commits for step in steps)
    return {
        "rule": name,
        "num_prompts": len(free),
        "active_ratio": _mean([row["active_ratio"] for row in free]),
        "masked_rows": len(kl),
        "kl_mean": float(kl.mean(dtype=np.float64)),
        "kl_median": float(np.median(kl)),
        "kl_p95": float(np.quantile(kl, 0.95)),
        "kl_max": float(kl.max()),
        "flips": sum(step.num_flips for step in steps),
        "flip_rate": sum(step.num_flips for step in steps) / len(kl),
        "commit_flips": sum(step.num_commit_flips for step in steps),
        "commit_flip_rate": sum(step.num_commit_flips for step in steps) / max(num_commits, 1),
        "ghost_share": sum(step.num_ghosts for step in steps) / max(num_frozen, 1),
        "prompts_with_flip": len(rule.first_flip),
        "first_flip": _median(list(rule.first_flip.values())),
        "prompts_that_part": len(parted),
        "first_difference": _median(parted),
        "agreement": _mean([row["agreement"] for row in free]),
        "control_agreement": _mean([row["control_agreement"] for row in free if row["control_agreement"] is not None]),
    }


def step_rows(record: TwinRecord) -> list[Row]:
    """One row for each rule and step."""
    rows = []
    for name, rule in record.rules.items():
        for step, found in sorted(rule.steps.items()):
            kl = np.concatenate(found.kl)
            rows.append(
                {
                    "rule": name,
                    "step": step,
                    "masked_rows": len(kl),
                    "kl_mean": float(kl.mean(dtype=np.float64)) if len(kl) else None,
                    "kl_median": float(np.median(kl)) if len(kl) else None,
                    "kl_p95": float(np.quantile(kl, 0.95)) if len(kl) else None,
                    "kl_max": float(kl.max()) if len(kl) else None,
                    "flips": found.num_flips,
                    "commits": found.num_commits,
                    "commit_flips": found.num_commit_flips,
                    "frozen_ratio": found.num_frozen / found.num_positions,
                    "ghost_ratio": found.num_ghosts / found.num_positions,
                }
            )
    return rows


def group_rows(record: TwinRecord) -> list[Row]:
    """One row for each rule and group of locks frozen on its own."""
    rows = []
    for name, rule in record.rules.items():
        for group, total in sorted(rule.groups.items(), key=lambda item: _place(item[0])):
            rows.append(
                {
                    "rule": name,
                    "axis": group.axis,
                    "group": group.name,
                    "canvas_steps": total.num_steps,
                    "locks_mean": total.num_locks / total.num_steps,
                    "masked_rows": total.num_rows,
                    "kl_mean": total.kl_sum / max(total.num_rows, 1),
                    "kl_per_lock": total.kl_sum / total.num_locks,
                    **ends("kl_per_lock", mean_of(total.per_lock)),
                    "flip_rate": total.num_flips / max(total.num_rows, 1),
                }
            )
    return rows


def _place(group: Group) -> tuple[str, int]:
    if group.axis == "age":
        return group.axis, LOCK_CLASSES.index(group.name)
    return group.axis, int(group.name) if group.axis == "layer" else 0


def drift_rows(record: TwinRecord) -> list[Row]:
    """One row for each rule, class of lock, steps since the lock, part and layer."""
    rows = []
    for name, rule in record.rules.items():
        for (lock_class, since), parts in sorted(
            rule.drifts.items(), key=lambda item: (LOCK_CLASSES.index(item[0][0]), item[0][1])
        ):
            rows += [{"rule": name, "lock_class": lock_class, "steps_since": since} | row for row in _by_layer(parts)]
    return rows


def change_rows(record: TwinRecord) -> list[Row]:
    """One row for each age, part and layer: how keys and values change in a step without locks."""
    return [
        {"age": age} | row for age in (0, *DELAYS) if age in record.changes for row in _by_layer(record.changes[age])
    ]


def _by_layer(parts: Sequence[NDArray[np.float32]]) -> list[Row]:
    # [num_layers, 2, k]
    values = np.concatenate(parts, axis=2)
    return [
        {
            "part": part,
            "layer": layer + 1,
            "num": values.shape[2],
            "median": float(np.median(values[layer, index])),
            "p90": float(np.quantile(values[layer, index], 0.9)),
        }
        for index, part in enumerate(PARTS)
        for layer in range(values.shape[0])
    ]


def effect_rows(record: TwinRecord) -> list[Row]:
    """One row for each rule and class of lock: the harm one lock does on its own."""
    rows = []
    for name, rule in record.rules.items():
        for lock_class in LOCK_CLASSES:
            harm = np.array([row["harm"] for row in rule.effects if row["lock_class"] == lock_class])
            if not len(harm):
                continue
            rows.append(
                {
                    "rule": name,
                    "lock_class": lock_class,
                    "locks": len(harm),
                    "harm_mean": float(harm.mean()),
                    **ends("harm_mean", mean_of(harm_sums(rule, lock_class))),
                    "harm_median": float(np.median(harm)),
                    "harm_p95": float(np.quantile(harm, 0.95)),
                    "harmful_share": float((harm > 0).mean()),
                }
            )
    return rows


def harm_sums(rule: RuleRecord, lock_class: str) -> Sums:
    """The harm of the single locks of a class, by sequence."""
    sums = Sums()
    for row in rule.effects:
        if row["lock_class"] == lock_class:
            sums.add(row["prompt"], row["harm"], 1)
    return sums


def ends(name: str, interval: Interval | None) -> Row:
    """The columns of a 95 % interval."""
    return {
        f"{name}_low": None if interval is None else interval.low,
        f"{name}_high": None if interval is None else interval.high,
    }


def correlation_rows(record: TwinRecord) -> list[Row]:
    """One row for each rule and predictor: Spearman's rank correlation of a lock's harm with it, over single locks."""
    rows = []
    for name, rule in record.rules.items():
        if not rule.effects:
            continue
        harm = np.array([row["harm"] for row in rule.effects])
        drifts = [column for column in rule.effects[0] if "_drift_" in column]
        for column in (*PREDICTORS, *drifts):
            value = np.array([row[column] for row in rule.effects], dtype=np.float64)
            known = np.isfinite(value)
            part, _, layer = column.partition("_drift_")
            rows.append(
                {
                    "rule": name,
                    "predictor": f"{part} drift" if layer else column,
                    "layer": int(layer) if layer else None,
                    "locks": int(known.sum()),
                    "spearman": spearman(value[known], harm[known]),
                }
            )
    return rows


def spread_rows(record: TwinRecord, table: dict[SpreadKey, Sums], start: str) -> list[Row]:
    """One row for each rule, run and bin, whose lower end goes under the name `start`."""
    return [
        {
            "rule": key.rule,
            "run": key.run,
            start: key.start,
            "tokens": sums.number,
            "differ": int(sums.amount),
            "share": sums.amount / sums.number,
            **ends("share", mean_of(sums)),
        }
        for rule in record.rules
        for key, sums in sorted(table.items(), key=lambda item: item[0])
        if key.rule == rule
    ]


def flip_rows(record: TwinRecord) -> list[Row]:
    """Every traced flip."""
    return [{"rule": name} | row for name, rule in record.rules.items() for row in rule.flips]


def spearman(a: Floats, b: Floats) -> float | None:
    """Rank correlation, equal values sharing their mean rank; None where it is not defined."""
    if len(a) < MIN_PAIRS:
        return None
    x, y = _ranks(a), _ranks(b)
    if x.std() == 0 or y.std() == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    ranks: Floats = (ends - (counts - 1) / 2)[inverse]
    return ranks


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _median(values: Sequence[int]) -> float | None:
    return float(np.median(values)) if values else None
