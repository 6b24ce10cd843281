"""Tables of a task evaluation: a row for each answer, and one for each task, level, canvas and rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from surelock.measure.statistics import mcnemar, paired_difference
from surelock.measure.task_eval import TaskAnswer
from surelock.results.tables import markdown_table, write_results

Row = dict[str, Any]

ALL: Final = "all"
_DIFFERENCE: Final = ("difference", "difference_low", "difference_high", "num_lost", "num_won", "mcnemar_p")


def answer_rows(answers: Sequence[TaskAnswer]) -> list[Row]:
    """One flat row for each answer, without its text."""
    return [
        place
        | {name: getattr(answer, name) for name in ("max_tokens", "num_steps", "num_positions")}
        | {"final": int(answer.verdict.final), "steps_right": int(answer.verdict.steps)}
        | {"readable": int(answer.verdict.form)}
        | {name: int(getattr(answer, name)) for name in ("has_ended", "identical")}
        | {name: getattr(answer, name) for name in ("agreement", "active_ratio")}
        | {"flops_ratio": answer.locked_flops / answer.base_flops}
        | {name: getattr(answer, name) for name in ("locked_flops", "base_flops")}
        for place, answer in _placed(answers)
    ]


def answer_texts(answers: Sequence[TaskAnswer]) -> list[Row]:
    """What was asked and what came back, with the numbers of `answer_rows`."""
    return [
        place
        | {"question": answer.problem.question, "right_answer": answer.problem.answer, "text": answer.text}
        | {"final": answer.verdict.final, "steps_right": answer.verdict.steps}
        for place, answer in _placed(answers)
    ]


def summary_rows(answers: Sequence[TaskAnswer], *, seed: int) -> list[Row]:
    """`summarized` of the answers."""
    return summarized(answer_rows(answers), seed=seed)


def summarized(answers: Sequence[Row], *, seed: int) -> list[Row]:
    """A row for each canvas, task, level and rule, with `all` for all levels of a task and for all tasks.

    Of either verdict (accuracy, and with `steps_` before the name steps_right) difference: to no lock, over the same
    problems, with a 95 % bootstrap interval; num_lost and num_won: problems that only no lock, or only the rule, got
    right; mcnemar_p: of these two. flops_ratio is of the sums, the rest are means over problems.

    Args:
        answers: rows of tasks.csv, numbers read.
        seed: of the intervals.
    """
    rows: list[Row] = []
    for canvas in dict.fromkeys(answer["canvas"] for answer in answers):
        of_canvas = [answer for answer in answers if answer["canvas"] == canvas]
        for task, level, group in _groups(of_canvas):
            by_rule = {
                rule: [answer for answer in group if answer["rule"] == rule]
                for rule in dict.fromkeys(answer["rule"] for answer in group)
            }
            free = None
            for rule, own in by_rule.items():
                row = {"canvas": canvas, "task": task, "level": level, "rule": rule} | _means(own)
                for verdict, prefix in (("final", ""), ("steps_right", "steps_")):
                    row |= _compared(own, free, verdict, prefix, seed=seed)
                rows.append(row)
                free = free or own
    return rows


def write_tasks(folder: Path, content: Mapping[str, Any], answers: Sequence[TaskAnswer]) -> list[Path]:
    """Write tasks.csv (a row for each answer), tasks.md, tasks.json and tasks_samples.jsonl (texts).

    Args:
        folder: an existing one.
        content: of the JSON file: method, notes, rows of the summary, and what else there is to say.

    Returns:
        The paths.
    """
    rows, texts, page = answer_rows(answers), answer_texts(answers), markdown_page(content)
    return write_results(folder, "tasks", rows=rows, facts=content, page=page, samples=texts)


def markdown_page(content: Mapping[str, Any]) -> str:
    """A page for readers: for each kind of canvas the totals by rule, and accuracy by task and level."""
    parts = ["# Checkable tasks", content["method"]]
    for canvas, group in groupby(content["rows"], key=lambda row: str(row["canvas"])):
        rows = list(group)
        totals = [
            {name: value for name, value in row.items() if name not in ("canvas", "task", "level")}
            for row in rows
            if row["task"] == ALL
        ]
        parts += [
            f"## {canvas.capitalize()} canvases",
            markdown_table(totals),
            "Share of problems with the right result:",
            markdown_table(accuracy_rows(rows)),
            "Share of problems with every worked line right as well:",
            markdown_table(accuracy_rows(rows, "steps_right")),
        ]
    environment = content["environment"]
    made_by = {
        "command": f"`{content['command']}`",
        "model": content["model"],
        "dtype": content["dtype"],
        "device": environment["gpu"] or environment["processor"],
        "torch": environment["torch"],
        "commit": environment["commit"],
    }
    parts += ["## Made by", "\n".join(f"- {name}: {value}" for name, value in made_by.items())]
    if content["notes"]:
        parts += ["## Notes", "\n".join(f"- {note}" for note in content["notes"])]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def accuracy_rows(rows: Sequence[Row], verdict: str = "accuracy") -> list[Row]:
    """A row for each task and level of the summary of one kind of canvas, and a column for each rule.

    verdict: the column that is shown, accuracy or steps_right.
    """
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    cells = {(row["task"], row["level"], row["rule"]): row for row in rows}
    places = dict.fromkeys((row["task"], row["level"]) for row in rows)
    return [
        {"task": task, "level": level, "num_problems": cells[task, level, rules[0]]["num_problems"]}
        | {rule: cells[task, level, rule][verdict] for rule in rules}
        for task, level in places
    ]


def _placed(answers: Sequence[TaskAnswer]) -> Iterator[tuple[Row, TaskAnswer]]:
    """Answers and what they are of; the number of a problem is the same over canvases and rules."""
    numbers: dict[tuple[str, str], int] = {}
    for answer in answers:
        problem = answer.problem
        number = numbers.setdefault((problem.task, problem.question), len(numbers))
        place = {"task": problem.task, "level": problem.level, "problem": number}
        yield place | {"canvas": answer.canvas, "rule": answer.rule}, answer


def _groups(answers: Sequence[Row]) -> Iterator[tuple[str, int | str, list[Row]]]:
    for task in dict.fromkeys(answer["task"] for answer in answers):
        of_task = [answer for answer in answers if answer["task"] == task]
        levels = sorted({answer["level"] for answer in of_task})
        for level in levels:
            yield task, level, [answer for answer in of_task if answer["level"] == level]
        if len(levels) > 1:
            yield task, ALL, of_task
    yield ALL, ALL, list(answers)


def _means(answers: Sequence[Row]) -> Row:
    names = ("steps_right", "readable", "has_ended", "identical", "agreement", "active_ratio")
    return {
        "num_problems": len(answers),
        "accuracy": fmean(answer["final"] for answer in answers),
        **{name: fmean(answer[name] for answer in answers) for name in names},
        "flops_ratio": sum(each["locked_flops"] for each in answers) / sum(each["base_flops"] for each in answers),
    }


def _compared(own: Sequence[Row], free: Sequence[Row] | None, verdict: str, prefix: str, *, seed: int) -> Row:
    """The columns of one verdict; free: without locks, None for that row itself."""
    names = [prefix + name for name in _DIFFERENCE]
    if free is None:
        return dict.fromkeys(names)
    right, others = ([bool(answer[verdict]) for answer in answers] for answers in (own, free))
    difference, test = paired_difference(right, others, seed=seed), mcnemar(right, others)
    values = (difference.value, difference.low, difference.high, test.only_b, test.only_a, test.p_value)
    return dict(zip(names, values, strict=True))
