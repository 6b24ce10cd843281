"""Does an epsilon that changes with the steps left lose less at short outputs than a constant one of equal cost?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from surelock.experiments import wording
from surelock.experiments.lengths import Length, of
from surelock.experiments.quality import QUALITY_COLUMNS, QUALITY_NOTE, load_judge
from surelock.experiments.registry import Experiment
from surelock.experiments.result import Column, Picture, Result, Row, Table
from surelock.experiments.rules import NONE
from surelock.experiments.sweep.answers import (
    TASK_COLUMNS,
    TASK_NAMES,
    TASK_NOTE,
    Answers,
    answer_problems,
    choose_problems,
    continue_texts,
    task_row,
    text_row,
)
from surelock.experiments.sweep.compare import (
    EQUAL_COLUMNS,
    EQUAL_NOTE,
    PLACE_COLUMNS,
    compare_answers,
    means,
    tally,
    verdict,
)
from surelock.experiments.sweep.policies import ByKL, Constant, FiniteHorizon, MasksLeft, Policy, Schedule
from surelock.experiments.sweep.together import COST_NOTE, Variant, cost_row
from surelock.params import LockParams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surelock.experiments.workbench import Workbench

CONSTANT, HORIZON, MASKS_LEFT = "constant", "finite horizon", "masks left"
SCHEDULES: Final = (CONSTANT, HORIZON, MASKS_LEFT)
# The rule for prompt rows: as all others, or locked once step 2 is done.
AS_OTHERS, AT_ONCE = "as others", "locks at step 2"
PROMPT_RULES: Final = {AS_OTHERS: LockParams(), AT_ONCE: LockParams(prompt_lock_step=2)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        num_prompts: texts. `num_problems`: of each length, of all kinds together. `tasks`: these kinds.
        lengths: N_gen and steps.
        constants, horizons, masks_left: scales of the three schedules.
        kappa: of the last one.
    """

    num_prompts: int = 48
    num_problems: int = 48
    tasks: tuple[str, ...] = TASK_NAMES
    lengths: tuple[Length, ...] = of(32, 64)
    constants: tuple[float, ...] = (5e-6, 5e-5, 5e-4, 5e-3, 5e-2, 0.5)
    horizons: tuple[float, ...] = (5e-3, 5e-2, 0.5, 5.0, 50.0, 500.0)
    masks_left: tuple[float, ...] = (5e-5, 5e-4, 5e-3, 5e-2, 0.5, 5.0)
    kappa: float = 8.0


QUICK: Final = Settings(
    num_prompts=2,
    num_problems=4,
    lengths=(Length(32, 8),),
    constants=(5e-4, 0.05),
    horizons=(0.05, 1.0),
    masks_left=(5e-3, 0.5),
)

SETTING_COLUMNS: Final = (
    Column("length", "N_gen/steps"),
    Column("prompt_rule", "prompt rows"),
    Column("schedule", "schedule"),
    Column("scale", "scale", "{:g}"),
)
COST_COLUMNS: Final = (
    Column("active_ratio", "active ratio", "{:.3f}"),
    Column("exact_ratio"),
    Column("full_ratio"),
)
COLUMNS: Final = (*SETTING_COLUMNS, *QUALITY_COLUMNS, *COST_COLUMNS)


@dataclass(frozen=True, slots=True)
class _Setting:
    prompt_rule: str
    schedule: str
    scale: float | None
    variant: Variant


def run(bench: Workbench) -> Result:
    """Texts and problems under every schedule, its scale varied."""
    settings = bench.settings(Settings(), QUICK)
    texts = bench.prompts.texts(settings.num_prompts)
    fitting, left_out = bench.fitting(settings.lengths, [text.canvas for text in texts])
    chosen = _settings(settings)
    variants = [each.variant for each in chosen]
    judge = load_judge(bench)
    rows: list[Row] = []
    problem_rows: list[Row] = []
    equal: list[Row] = []
    if not bench.prompts.is_chat:
        left_out = [*left_out, f"tasks: {bench.llm.name} has no chat template to ask them through"]
    for length in fitting:
        answers = continue_texts(bench, judge, texts, length, variants)
        rows += [_text_row(bench, length, each, answers) for each in chosen]
        equal += _equal(bench, length, chosen, answers, "texts")
        if not bench.prompts.is_chat:
            continue
        problems = choose_problems(
            bench.llm,
            settings.num_problems,
            seed=bench.options.seed,
            tasks=settings.tasks,
            max_tokens=length.num_generated,
        )
        if not problems:
            left_out = [*left_out, f"tasks, N_gen {length.num_generated}: no right answer fits so many positions"]
            continue
        solved = answer_problems(bench, problems, variants, tokens_per_step=-(-length.num_generated // length.steps))
        problem_rows += [_problem_row(bench, length, each, solved) for each in chosen]
        equal += _equal(bench, length, chosen, solved, "problems")
    return Result(
        number=FINDING.number,
        name=FINDING.name,
        title="Do epsilon schedules lose less at short outputs?",
        method=(
            "The default rule with epsilon constant, with epsilon_t = scale / (T - t)^2 (finite horizon), and with "
            f"epsilon_t = scale min(1, ({settings.kappa:g} / masks left)^2) (masks left), each over a range of scales, "
            "with prompt rows locking as all others do and with all of them locked after step 2. Schedules are "
            "compared where they compute equally many rows, on straight lines between their settings."
        ),
        facts=bench.facts(settings, prompts=bench.prompts.text_source, judge=judge.name),
        tables=[
            Table("adaptive", EQUAL_NOTE, (*SETTING_COLUMNS[:3], *EQUAL_COLUMNS), means(equal)),
            Table("adaptive_places", EQUAL_NOTE, (*SETTING_COLUMNS[:3], *PLACE_COLUMNS), equal, on_page=False),
            Table("adaptive_texts", f"{QUALITY_NOTE} {COST_NOTE}", COLUMNS, rows),
            Table("adaptive_tasks", TASK_NOTE, (*SETTING_COLUMNS, *TASK_COLUMNS), problem_rows),
        ],
        pictures=[Picture("adaptive", _CAPTION, lambda: _draw(rows, problem_rows))] if rows else [],
        findings=_findings(rows, means(equal)),
        left_out=left_out,
    )


def _settings(settings: Settings) -> list[_Setting]:
    schedules: list[tuple[str, float, Schedule]] = [
        *((CONSTANT, scale, Constant(scale)) for scale in settings.constants),
        *((HORIZON, scale, FiniteHorizon(scale)) for scale in settings.horizons),
        *((MASKS_LEFT, scale, MasksLeft(scale, settings.kappa)) for scale in settings.masks_left),
    ]
    found = [_Setting(NONE, NONE, None, Variant(NONE, Policy))]
    for prompt_rule, lock in PROMPT_RULES.items():
        for name, scale, schedule in schedules:
            # The rule's own epsilon only has to be one that may lock.
            start = partial(ByKL, replace(lock, kl_threshold=scale), schedule)
            found.append(_Setting(prompt_rule, name, scale, Variant(f"{prompt_rule}, {name}, {scale:g}", start)))
    return found


def _own(length: Length, each: _Setting) -> Row:
    return {
        "length": str(length),
        "prompt_rule": each.prompt_rule,
        "schedule": each.schedule,
        "scale": each.scale,
    }


def _text_row(bench: Workbench, length: Length, each: _Setting, answers: Mapping[str, Answers]) -> Row:
    own = answers[each.variant.name]
    return {
        **_own(length, each),
        **text_row(own, answers[NONE], seed=bench.options.seed),
        **cost_row(bench.llm.config, own.runs),
    }


def _problem_row(bench: Workbench, length: Length, each: _Setting, solved: Mapping[str, Answers]) -> Row:
    own = solved[each.variant.name]
    return {**_own(length, each), **task_row(bench.llm, own, solved[NONE], seed=bench.options.seed)}


def _equal(
    bench: Workbench,
    length: Length,
    chosen: Sequence[_Setting],
    answers: Mapping[str, Answers],
    what: Literal["texts", "problems"],
) -> list[Row]:
    """Each schedule against the constant one with the same rule for prompt rows; the constant one against itself."""
    found: list[Row] = []
    for prompt_rule in PROMPT_RULES:
        families = {
            name: [
                answers[each.variant.name]
                for each in chosen
                if (each.prompt_rule, each.schedule) == (prompt_rule, name)
            ]
            for name in SCHEDULES
        }
        for name in SCHEDULES[1:]:
            compared = compare_answers(families[name], families[CONSTANT], what, seed=bench.options.seed)
            own = {"length": str(length), "prompt_rule": prompt_rule, "schedule": name}
            found += [{**own, **row} for row in compared]
    return found


def _findings(rows: Sequence[Row], equal: Sequence[Row]) -> list[str]:
    found = []
    for length in dict.fromkeys(row["length"] for row in rows):
        for prompt_rule in PROMPT_RULES:
            constant = [
                row
                for row in rows
                if (row["length"], row["prompt_rule"], row["schedule"]) == (length, prompt_rule, CONSTANT)
            ]
            found.append(
                f"N_gen/steps {length}, prompt rows lock {_how(prompt_rule)}: constant epsilon from "
                f"{wording.threshold(constant[0]['scale'])} to {wording.threshold(constant[-1]['scale'])} computes "
                f"{wording.number(constant[0]['active_ratio'])} to {wording.number(constant[-1]['active_ratio'])} of "
                f"the rows, with an agreement of {wording.number(constant[0]['agreement'], 2)} to "
                f"{wording.number(constant[-1]['agreement'], 2)} and Gen-PPL of "
                f"{wording.span([row['ppl_ratio'] for row in constant])} times that without locks."
            )
            for schedule in SCHEDULES[1:]:
                compared = [
                    row
                    for row in equal
                    if (row["length"], row["prompt_rule"], row["schedule"]) == (length, prompt_rule, schedule)
                ]
                if compared:
                    told = "; ".join(verdict(row) for row in compared)
                    found.append(
                        f"N_gen/steps {length}, prompt rows lock {_how(prompt_rule)}, {schedule} against constant at "
                        f"equal active ratio: {told}."
                    )
    if equal:
        found.append(tally(equal, "a constant epsilon", "the schedule"))
    return found


def _how(prompt_rule: str) -> str:
    return "as others do" if prompt_rule == AS_OTHERS else "at step 2"


def _draw(rows: Sequence[Row], problems: Sequence[Row]) -> Figure:
    from surelock.experiments import style
    from surelock.experiments.sweep.drawing import ppl_ratio_axis

    lengths = list(dict.fromkeys(row["length"] for row in rows))
    kinds: list[tuple[Sequence[Row], str, str, str]] = [
        (rows, "agreement", "active_ratio", "agreement, texts"),
        (rows, "ppl_ratio", "active_ratio", "Gen-PPL ratio, texts"),
    ]
    if problems:
        kinds.append((problems, "accuracy", "task_active_ratio", "right answers, problems"))
    figure, grid = style.axes_grid(len(kinds), len(lengths), height=2.6 * len(kinds) + 0.8)
    for line, (shown, key, cost, label) in zip(grid, kinds, strict=True):
        for axes, length in zip(line, lengths, strict=True):
            here = [row for row in shown if row["length"] == length]
            _panel(axes, here, key, cost, style)
            axes.set_xlabel("active ratio")
            if axes is line[0]:
                axes.set_ylabel(label)
            if line is grid[0]:
                axes.set_title(f"N_gen/steps = {length}", fontsize=10)
            if key == "ppl_ratio":
                ppl_ratio_axis(axes)
            if key == "accuracy":
                style.share_axis(axes)
    style.legend_below(figure, [axes for line in grid for axes in line], columns=3)
    return figure


def _panel(axes: Any, rows: Sequence[Row], key: str, cost: str, style: Any) -> None:
    for index, schedule in enumerate(SCHEDULES):
        for prompt_rule in PROMPT_RULES:
            points = sorted(
                (float(row[cost]), float(row[key]))
                for row in rows
                if (row["schedule"], row["prompt_rule"]) == (schedule, prompt_rule)
            )
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=style.SERIES[index],
                    marker=style.MARKERS[index],
                    markersize=5,
                    markerfacecolor=style.SERIES[index] if prompt_rule == AS_OTHERS else style.PAGE,
                    linestyle="-" if prompt_rule == AS_OTHERS else style.DASHED,
                    label=schedule if prompt_rule == AS_OTHERS else f"{schedule}, prompt rule",
                )
    none = [float(row[key]) for row in rows if row["schedule"] == NONE]
    if none and math.isfinite(none[0]):
        axes.axhline(none[0], color=style.INK, linewidth=0.9, label="no lock")


_CAPTION: Final = (
    "Quality against the rows computed, one line for each schedule over its scale. Open markers, prompt rule: all "
    "prompt rows locked after step 2. Black line: no lock."
)
FINDING: Final = Experiment("finding", "adaptive", "Epsilon schedules for short outputs", run)
