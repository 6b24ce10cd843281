"""Shares of checkable tasks answered rightly, rule by rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from surelock.eval.rules import NO_LOCK
from surelock.eval.task_eval import CanvasKind, TaskSettings, evaluation_problems, measure_tasks
from surelock.eval.task_table import ALL, summary_rows
from surelock.experiments.fitted_tasks import RIGHT_COLUMNS
from surelock.experiments.result import Column, Row
from surelock.experiments.rules import NONE, Rule

if TYPE_CHECKING:
    from surelock.experiments.workbench import Workbench

ACCURACY_COLUMNS: Final = (
    Column("canvas", "canvas"),
    Column("rule", "rule"),
    Column("threshold", "epsilon", "{:.0e}"),
    *RIGHT_COLUMNS,
    Column("identical", "same answer", "{:.3f}"),
    Column("agreement", "agreement", "{:.3f}"),
    Column("exact_ratio", "exact", "{:.3f}"),
)
ACCURACY_NOTE: Final = (
    "Right: a program found the right result in the answer. Fitted canvases: N_gen is the length of a right answer and "
    "its end, rounded up to a multiple of 32; padded: 128 for every problem, 160 for sudoku. Against no lock: paired "
    "difference with a 95 % bootstrap interval over problems; lost and won: problems only no lock, or only the rule, "
    "got right; p: McNemar's exact test of these two. Same answer: share of answers with the very tokens of no lock."
)
_LEVELS: Final = (1, 2)


def task_rows(
    bench: Workbench, rules: Sequence[Rule], *, kinds: Sequence[str], num_problems: int, canvases: Sequence[CanvasKind]
) -> tuple[list[Row], list[str]]:
    """A row for each kind of canvas and rule, and a line for what was left out.

    Args:
        rules: no lock first.
        kinds: of task, names in `TASKS`.
        num_problems: of each kind, levels 1 and 2 in turn, test split.
        canvases: see `TaskSettings`.
    """
    if not bench.prompts.is_chat:
        return [], [f"tasks: {bench.llm.name} has no chat template to ask them through"]
    named = {NO_LOCK if rule.name == NONE else str(rule): rule for rule in rules}
    problems = evaluation_problems(kinds, _LEVELS, num_per_task=num_problems, seed=bench.options.seed)
    run = measure_tasks(
        bench.llm,
        problems,
        {name: rule.lock for name, rule in named.items()},
        TaskSettings(canvases=canvases),
        progress=bench.progress,
    )
    found = [row for row in summary_rows(run.answers, seed=bench.options.seed) if row["task"] == ALL]
    rows: list[Row] = []
    for row in found:
        rule = named[row["rule"]]
        values = row | {"rule": rule.name, "threshold": rule.threshold, "exact_ratio": row["flops_ratio"]}
        rows.append({column.name: values[column.name] for column in ACCURACY_COLUMNS})
    return rows, [f"tasks, {note}" for note in run.notes]
