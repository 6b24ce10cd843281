"""`surelock eval tasks`: are answers still right with locks?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from surelock.cli.measuring import Rules, load_measured, note_written, parse_numbers, print_table, run_facts
from surelock.cli.options import JsonFlag, ModelOptions, option, refuse, with_options
from surelock.cli.terminal import note, standard_output, status
from surelock.cli.watch import write_json
from surelock.errors import ParameterError
from surelock.params import MAX_TOKENS

_METHOD: Final = (
    "Problems of the test split, no question twice, each asked as one chat turn and decoded greedily. accuracy: share "
    "with the right result, found by a program; steps_right: every worked line right as well; readable: a result could "
    "be found; has_ended: there is an end token; identical: share of answers with the very tokens of no lock; "
    "agreement: share of generated positions with the token of no lock; active_ratio: rows computed over all rows, "
    "mean over problems; flops_ratio: mode `exact`, locked over unlocked, sums over problems; difference: of accuracy "
    "to no lock over the same problems, with a 95 % bootstrap interval; num_lost, num_won: problems that only no lock, "
    "or only the rule, got right, with McNemar's exact p; steps_difference and so on: the same of steps_right. fitted: "
    "the canvas ends within 32 tokens of the right answer's end; padded: all canvases have the same room, and most of "
    "what follows an answer is end tokens."
)
# What is shown of a verdict: its name, its share, and what is put before the columns that compare it with no lock.
_VERDICTS: Final = (("results", "accuracy", ""), ("worked lines", "steps_right", "steps_"))
_COMPARED: Final = ("difference", "difference_low", "difference_high", "num_lost", "num_won", "mcnemar_p")
_COSTS: Final = ("canvas", "rule", "identical", "agreement", "active_ratio", "flops_ratio")

CanvasChoice = Literal["fitted", "padded", "both"]


@with_options("Measurement")
def tasks(
    model: ModelOptions,
    types: Annotated[str | None, option("Kinds of problem, with commas between them.", default="all 17")] = None,
    levels: Annotated[str, option("Levels, 1 (easy) to 3, with commas between them.")] = "1,2,3",
    per_type: Annotated[
        int, option("Problems of each kind, fewer where the test split has no more.", min=1, max=1 << 16)
    ] = 64,
    rule: Rules = None,
    seed: Annotated[int, option("Of the problems and of the intervals.")] = 0,
    canvas: Annotated[
        CanvasChoice, option("Canvases that fit the right answer, canvases of --max-tokens, or both.", "Sampling")
    ] = "both",
    max_tokens: Annotated[
        int | None,
        option(
            "Tokens to generate on padded canvases.",
            "Sampling",
            "--max-tokens",
            "-n",
            default="128, sudoku 160",
            min=1,
            max=MAX_TOKENS,
        ),
    ] = None,
    tokens_per_step: Annotated[int, option("Tokens unmasked in a step.", "Sampling", min=1, max=1 << 16)] = 1,
    block_length: Annotated[
        str, option("Positions of a semi-autoregressive block; full is one block.", "Sampling", metavar="<int>|full")
    ] = "full",
    out: Annotated[
        Path | None, option("Folder for tasks.csv (a row for each answer), .md, .json and the texts.", "Output")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Ask problems whose answers a program checks, and compare locking rules with no lock.

    The problems are sums, sorting, spelling, dates, units, logic, sudoku, records, tables, stories, shopping and small
    programs, each answered in worked steps. A model that was not trained on their form will answer few of them.
    """
    is_unused = max_tokens is not None and canvas == "fitted"
    refuse("has no effect with --canvas fitted; leave one of them out", max_tokens=is_unused)
    # Late, like all that brings torch.
    from surelock.measure.rules import DEFAULT_RULES, parse_rules
    from surelock.measure.task_eval import TaskSettings, evaluation_problems, measure_tasks
    from surelock.measure.task_table import summary_rows, write_tasks
    from surelock.measure.tasks import TASKS
    from surelock.results.result_folder import check_folder

    rules = parse_rules(rule or DEFAULT_RULES)
    settings = TaskSettings(
        canvases=("fitted", "padded") if canvas == "both" else (canvas,),
        max_tokens=max_tokens,
        tokens_per_step=tokens_per_step,
        block_length=_block_length(block_length),
    )
    names = list(TASKS) if types is None else [name.strip() for name in types.split(",")]
    problems = evaluation_problems(names, parse_numbers("--levels", levels), num_per_task=per_type, seed=seed)
    asked = {problem.task for problem in problems}
    notes = [f"{name}: no test problem at level {levels}, left out" for name in names if name not in asked]
    if out is not None:
        check_folder(out)
    llm = load_measured(model)
    with status("starting") as show:
        run = measure_tasks(llm, problems, rules, settings, progress=show)
        notes += run.notes
        show("resampling")
        rows = summary_rows(run.answers, seed=seed)
    own = {
        "levels": levels,
        "per_type": per_type,
        "seed": seed,
        "max_tokens": max_tokens,
        "tokens_per_step": tokens_per_step,
        "block_length": block_length,
    }
    content = run_facts(llm) | {"method": _METHOD, "settings": own, "notes": notes, "rows": rows}
    for line in notes:
        note(line)
    if out is not None:
        note_written(write_tasks(out, content, run.answers))
    if json:
        write_json(content)
    else:
        _print(rows)


def _block_length(text: str) -> int | None:
    if text == "full":
        return None
    if not (text.isdecimal() and len(text) <= 7 and int(text)):
        raise ParameterError(f"--block-length is {text!r:.60}; write a positive integer, or full for one block")
    return int(text)


def _print(rows: list[dict[str, Any]]) -> None:
    from surelock.measure.task_table import ALL, accuracy_rows

    totals = [row for row in rows if row["task"] == ALL]
    right = [
        {"canvas": row["canvas"], "rule": row["rule"], "right": told, "problems": row["num_problems"]}
        | {"share": row[share]}
        | {name: row[prefix + name] for name in _COMPARED}
        for row in totals
        for told, share, prefix in _VERDICTS
    ]
    print_table(right, _shown)
    print_table([{name: row[name] for name in _COSTS} for row in totals], _shown)
    for kind in dict.fromkeys(row["canvas"] for row in rows):
        own = [row for row in rows if row["canvas"] == kind]
        for told, share, _ in _VERDICTS:
            standard_output().print(f"right {told}, {kind} canvases")
            print_table(accuracy_rows(own, share), _shown)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if name == "mcnemar_p":
        return f"{value:.3g}"
    if name.startswith("difference"):
        # Nothing has no minus sign.
        return f"{round(value, 3) + 0.0:+.1%}"
    return f"{value:.3f}" if "ratio" in name else f"{value:.1%}"
