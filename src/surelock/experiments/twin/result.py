"""The twins as a result: what is written to a folder and bound into a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from surelock.eval.twin.records import Row, TwinRecord
from surelock.experiments.result import Column, Picture, Result, Table
from surelock.experiments.twin import summary
from surelock.experiments.twin.words import findings

METHOD: Final = (
    "Every prompt is decoded without locks. For each rule a second run with locks repeats every unmasking decision, "
    "position and token, so both read the same canvas in every step and differ by frozen keys and values alone; the "
    "rows that are still masked are compared: KL(no lock || locks) over the full vocabulary, and whether the proposed "
    "token is another one (a flip). Groups of locks are frozen on their own in some steps, with everything else fresh; "
    "single locks are set free one at a time, and the harm of a lock is how far the divergence of its step falls. "
    "Runs that make their own decisions follow, each beside a control without locks that is only forced to take the "
    "locked run's first different decision."
)
_TITLE: Final = "What locking does to the rows that are still masked"


def twin_result(record: TwinRecord, facts: dict[str, Any], *, raw: bool = False) -> Result:
    """Tables, pictures and findings; with `raw` also a row for every single lock that was set free."""
    from surelock.experiments.twin import pictures

    steps, groups = summary.step_rows(record), summary.group_rows(record)
    drifts, changes = summary.drift_rows(record), summary.change_rows(record)
    flips = summary.flip_rows(record)
    growth = summary.spread_rows(record, record.growth, "steps_since")
    spread = summary.spread_rows(record, record.spread, "distance")
    effects = [{"rule": name} | row for name, rule in record.rules.items() for row in rule.effects] if raw else []
    tables = [
        _table("twin", "Each rule over all steps and prompts.", summary.rule_rows(record), _RULE_HEADINGS),
        _table("twin_steps", "Each step.", steps),
        _table("twin_groups", _GROUPS, groups, _GROUP_HEADINGS),
        _table("twin_effects", _EFFECTS, summary.effect_rows(record), _EFFECT_HEADINGS),
        _table("twin_predictors", _PREDICTORS, summary.correlation_rows(record), _PREDICTOR_HEADINGS),
        _table("twin_drift", "Frozen against fresh keys and values.", drifts),
        _table("twin_changes", "Keys and values from one step to the next without locks.", changes),
        _table("twin_flips", "Each traced flip.", flips),
        _table("twin_free", "Each run that went free.", record.free),
        _table("twin_growth", "Tokens that differ, by steps since the first difference.", growth),
        _table("twin_spread", "Tokens that differ, by positions from the first difference.", spread),
        _table("twin_locks", "Each lock that was set free on its own.", effects),
    ]
    drawn: list[tuple[str, str, Callable[[], Any], list[Row]]] = [
        ("twin_kl", _KL_CAPTION, lambda: pictures.divergence_picture(steps), steps),
        ("twin_groups", _GROUPS, lambda: pictures.groups_picture(groups), groups),
        ("twin_drift", _DRIFT_CAPTION, lambda: pictures.drift_picture(changes, drifts), changes),
        ("twin_spread", _SPREAD_CAPTION, lambda: pictures.spread_picture(flips, growth, spread), [*flips, *growth]),
    ]
    return Result(
        number="twin",
        name="twin",
        title=_TITLE,
        method=METHOD,
        facts=facts,
        tables=[table for table in tables if table.rows],
        pictures=[Picture(name, caption, draw) for name, caption, draw, rows in drawn if rows],
        findings=findings(record),
    )


def _table(name: str, caption: str, rows: list[Row], headings: dict[str, tuple[str, str]] | None = None) -> Table:
    """A table whose columns without a heading, or all of them, are for the CSV file only."""
    headings = headings or {}
    columns = tuple(Column(key, *headings.get(key, (None, "{}"))) for key in (rows[0] if rows else ()))
    return Table(name, caption, columns, rows, on_page=bool(headings))


_GROUPS: Final = (
    "Divergence of the masked rows with only one group of the locks frozen: by age at lock (0: ghosts), the half that "
    "drifted less or more, and all locks in one layer only. KL per lock with a 95 % bootstrap interval over sequences."
)
_EFFECTS: Final = "Harm of a single lock: nats by which the divergence of its step falls when it alone is set free."
_PREDICTORS: Final = "Spearman's rank correlation, over single locks, of that harm with what is known of the lock."
_KL_CAPTION: Final = "Masked rows of runs with locks against the same rows without, over the same canvas in every step."
_DRIFT_CAPTION: Final = (
    "Relative change of values: without locks from one step to the next, and with locks of the frozen ones against "
    "those of the run without."
)
_SPREAD_CAPTION: Final = (
    "Distance between a flipped row and the lock that is most to blame, and how a first difference spreads in runs "
    "that make their own decisions."
)
_NUMBER, _SMALL, _PERCENT = "{:,}", "{:.2g}", "{:.2%}"
_RULE_HEADINGS: Final = {
    "rule": ("rule", "{}"),
    "active_ratio": ("active ratio", "{:.3f}"),
    "kl_mean": ("KL mean", _SMALL),
    "kl_p95": ("95 %", _SMALL),
    "kl_max": ("max", _SMALL),
    "flip_rate": ("flips", _PERCENT),
    "commit_flip_rate": ("of committed", _PERCENT),
    "ghost_share": ("ghosts among locks", "{:.1%}"),
    "first_flip": ("first flip, step", "{:g}"),
    "first_difference": ("free runs part, step", "{:g}"),
    "agreement": ("agreement", "{:.3f}"),
    "control_agreement": ("of control", "{:.3f}"),
}
_GROUP_HEADINGS: Final = {
    "rule": ("rule", "{}"),
    "axis": ("by", "{}"),
    "group": ("group", "{}"),
    "locks_mean": ("locks", "{:.1f}"),
    "masked_rows": ("masked rows", _NUMBER),
    "kl_mean": ("KL mean", _SMALL),
    "kl_per_lock": ("KL per lock", _SMALL),
    "kl_per_lock_low": ("95 % from", _SMALL),
    "kl_per_lock_high": ("to", _SMALL),
    "flip_rate": ("flips", _PERCENT),
}
_EFFECT_HEADINGS: Final = {
    "rule": ("rule", "{}"),
    "lock_class": ("age at lock", "{}"),
    "locks": ("locks", _NUMBER),
    "harm_mean": ("harm, mean", _SMALL),
    "harm_mean_low": ("95 % from", _SMALL),
    "harm_mean_high": ("to", _SMALL),
    "harm_median": ("median", _SMALL),
    "harm_p95": ("95th percentile", _SMALL),
    "harmful_share": ("harmful", "{:.0%}"),
}
_PREDICTOR_HEADINGS: Final = {
    "rule": ("rule", "{}"),
    "predictor": ("predictor", "{}"),
    "layer": ("layer", "{}"),
    "locks": ("locks", _NUMBER),
    "spearman": ("rank correlation", "{:.2f}"),
}
