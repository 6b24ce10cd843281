"""Checkable problems on canvases fitted to their answers, asked under any parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surelock.eval.statistics import mcnemar, paired_difference
from surelock.eval.task_eval import DEFAULT_LEVELS, FITTED_TO, evaluation_problems
from surelock.eval.tasks import Problem, check
from surelock.experiments.result import Column, Row

if TYPE_CHECKING:
    from surelock.experiments.workbench import Canvas, Workbench

# The kinds of problem the embedded model was trained on.
TRAINED: Final = (
    "add", "sub", "sort", "seq", "spell", "count", "logic", "unit", "json", "table", "shop", "code", "weekday", "story",
)  # fmt: skip

RIGHT_COLUMNS: Final = (
    Column("num_problems", "problems"),
    Column("accuracy", "right", "{:.1%}"),
    Column("difference", "against no lock", "{:+.1%}"),
    Column("difference_low", "95 % from", "{:+.1%}"),
    Column("difference_high", "to", "{:+.1%}"),
    Column("num_lost", "lost"),
    Column("num_won", "won"),
    Column("mcnemar_p", "McNemar p", "{:.3f}"),
)
RIGHT_NOTE: Final = (
    "Right: a program found the right result in the answer; canvases fitted to the right answer. Against no lock: "
    "paired difference over the same problems with a 95 % bootstrap interval; lost and won: problems only no lock, or "
    "only the setting, got right; p: McNemar's exact test of these two."
)


@dataclass(frozen=True, slots=True)
class FittedProblem:
    """A problem as the model is asked it.

    Attributes:
        max_tokens: tokens of the right answer and its end, rounded up to a multiple of 32.
    """

    problem: Problem
    prompt: Canvas
    max_tokens: int

    def is_right(self, text: str) -> bool:
        """Whether an answer has the right result."""
        return check(self.problem, text).final


def fitted_problems(
    bench: Workbench, tasks: Sequence[str], *, num_per_task: int
) -> tuple[list[FittedProblem], list[str]]:
    """Problems of the test split, levels 1 to 3 in turn, and a line for what was left out.

    None where the model has no chat template. Fewer of a kind that has fewer.
    """
    llm = bench.llm
    if not bench.prompts.is_chat:
        return [], [f"tasks: {llm.name} has no chat template to ask them through"]
    assert llm.tokenizer is not None, "a chat template belongs to a tokenizer"
    found = []
    problems = evaluation_problems(tasks, DEFAULT_LEVELS, num_per_task=num_per_task, seed=bench.options.seed)
    for problem in problems:
        prompt = tuple(llm.encode_chat([{"role": "user", "content": problem.question}]))
        num = len(llm.tokenizer.encode(problem.answer, bos=False)) + 1
        found.append(FittedProblem(problem, prompt, -(-num // FITTED_TO) * FITTED_TO))
    limit = llm.config.max_sequence_length
    fitting = [each for each in found if len(each.prompt) + each.max_tokens <= limit]
    num_long = len(found) - len(fitting)
    lines = [f"tasks: {num_long} of {len(found)} canvases are longer than the model's {limit} positions"]
    return fitting, lines if num_long else []


def compared(right: Sequence[bool], free: Sequence[bool] | None, *, seed: int) -> Row:
    """Values of `RIGHT_COLUMNS`; free: the same problems without locks, None for that row itself."""
    row: Row = {"num_problems": len(right), "accuracy": sum(right) / len(right)}
    if free is None:
        return row | {column.name: None for column in RIGHT_COLUMNS if column.name not in row}
    difference, test = paired_difference(right, free, seed=seed), mcnemar(right, free)
    return row | {
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "num_lost": test.only_b,
        "num_won": test.only_a,
        "mcnemar_p": test.p_value,
    }
