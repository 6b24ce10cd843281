"""Do locked rows need to be computed anew now and then, or unlocked where they drifted, and does it pay?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from surelock.experiments import wording
from surelock.experiments.lengths import Length, of
from surelock.experiments.quality import QUALITY_COLUMNS, QUALITY_NOTE, load_judge
from surelock.experiments.registry import Experiment
from surelock.experiments.result import Column, Picture, Result, Row, Table
from surelock.experiments.rules import DEFAULT, NONE, PAPER
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
from surelock.experiments.sweep.policies import AfterOneStep, ByKL, Policy, Refreshed, Unlocking, UnlockOnDrift
from surelock.experiments.sweep.together import COST_NOTE, Variant, cost_row
from surelock.params import LockParams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surelock.experiments.workbench import Workbench

ALWAYS: Final = "lock after one step"
LOCKS: Final = {DEFAULT: LockParams(), PAPER: LockParams.paper()}
NEVER: Final = "never"
UNLOCKED_BY: Final = ("KL", "K/V drift")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        num_prompts: texts.
        num_problems: of all kinds together. `tasks`: these kinds.
        lengths: N_gen and steps of the texts; only the first is measured.
        tokens_per_step: of the problems.
        periods: of refreshing.
        unlock_kl, unlock_drift: above these a probed row is unlocked, nats and relative movement of keys or values.
        probe_period, min_locked, cool_down, strictness: see `Unlocking`.
    """

    num_prompts: int = 64
    num_problems: int = 120
    tasks: tuple[str, ...] = TASK_NAMES
    lengths: tuple[Length, ...] = of(64)
    tokens_per_step: int = 1
    periods: tuple[int, ...] = (4, 8, 16, 32)
    unlock_kl: float = 5e-3
    unlock_drift: float = 0.1
    probe_period: int = 8
    min_locked: int = 4
    cool_down: int = 4
    strictness: float = 0.5

    @property
    def unlocking(self) -> tuple[Unlocking, ...]:
        """By posteriors, and by keys and values."""
        by_kl = Unlocking(
            by="kl", threshold=self.unlock_kl, period=self.probe_period, min_locked=self.min_locked,
            cool_down=self.cool_down, strictness=self.strictness,
        )  # fmt: skip
        return by_kl, replace(by_kl, by="drift", threshold=self.unlock_drift)


QUICK: Final = Settings(
    num_prompts=2,
    num_problems=4,
    tasks=("shop", "unit"),
    lengths=(Length(12, 6),),
    tokens_per_step=8,
    periods=(2,),
    probe_period=2,
    min_locked=1,
    cool_down=1,
)

CHANGE_COLUMNS: Final = (
    Column("rule", "rule"),
    Column("change", "locked rows"),
    Column("period", None),
)
UNLOCK_COLUMNS: Final = (
    Column("active_ratio", "active ratio", "{:.3f}"),
    Column("exact_ratio"),
    Column("full_ratio", "full FLOPs", "{:.3f}"),
    Column("refreshed_share", "refreshed rows", "{:.1%}"),
    Column("unlocks_per_lock", "unlocked", "{:.1%}"),
)
COLUMNS: Final = (*CHANGE_COLUMNS, *QUALITY_COLUMNS, *UNLOCK_COLUMNS)
PROBLEM_COLUMNS: Final = (
    *CHANGE_COLUMNS,
    *TASK_COLUMNS,
    Column("task_unlocks_per_lock", "unlocked", "{:.1%}"),
)


@dataclass(frozen=True, slots=True)
class _Setting:
    rule: str
    change: str
    period: int | None
    start: Callable[[], Policy]

    @property
    def variant(self) -> Variant:
        return Variant(f"{self.rule}: {self.change}", self.start)


def run(bench: Workbench) -> Result:
    """Texts and problems under every rule, with every way to treat what is locked."""
    settings = bench.settings(Settings(), QUICK)
    texts = bench.prompts.texts(settings.num_prompts)
    fitting, left_out = bench.fitting(settings.lengths[:1], [text.canvas for text in texts])
    chosen = _settings(settings)
    variants = [each.variant for each in chosen]
    judge = load_judge(bench)
    answers: Mapping[str, Answers] = {}
    for length in fitting:
        answers = continue_texts(bench, judge, texts, length, variants)
    solved: Mapping[str, Answers] = {}
    if bench.prompts.is_chat:
        problems = choose_problems(bench.llm, settings.num_problems, seed=bench.options.seed, tasks=settings.tasks)
        solved = answer_problems(bench, problems, variants, tokens_per_step=settings.tokens_per_step)
    else:
        left_out = [*left_out, f"tasks: {bench.llm.name} has no chat template to ask them through"]
    rows = [_text_row(bench, each, answers) for each in chosen if answers]
    problem_rows = [_problem_row(bench, each, solved) for each in chosen if solved]
    length = settings.lengths[0]
    return Result(
        number=FINDING.number,
        name=FINDING.name,
        title="Do locked rows need a refresh, and does it pay?",
        method=(
            f"Text continuations at N_gen/steps {length} and problems with exact answers under the default rule, the "
            f"paper's and one that locks every row after one visible step (as dKV-Cache does). Locked rows stay as "
            f"they are, or all are computed anew every P steps, or every {settings.probe_period} steps those "
            f"locked for more than {settings.min_locked} steps are, and of these the rows that moved "
            "since they were last computed are unlocked "
            f"({wording.listed([_change(each) for each in settings.unlocking])}; under the paper's rule only rows "
            "above its confidence gate). An unlocked row rests "
            f"{settings.cool_down} steps, then locks again by {settings.strictness:g} "
            "epsilon (paper, appendix M, which names no numbers)."
        ),
        facts=bench.facts(settings),
        tables=[
            Table("refresh", f"{QUALITY_NOTE} {COST_NOTE} {_UNLOCK_NOTE}", COLUMNS, rows),
            Table("refresh_tasks", f"{TASK_NOTE} {_UNLOCK_NOTE}", PROBLEM_COLUMNS, problem_rows),
        ],
        pictures=[Picture("refresh", _CAPTION, lambda: _draw(rows, problem_rows))] if rows else [],
        findings=_findings(rows, problem_rows),
        left_out=left_out,
    )


def _settings(settings: Settings) -> list[_Setting]:
    found = [_Setting(NONE, NEVER, None, Policy)]
    for name in (*LOCKS, ALWAYS):
        start = AfterOneStep if name == ALWAYS else partial(ByKL, LOCKS[name])
        found.append(_Setting(name, NEVER, None, start))
        found += [
            _Setting(name, f"refreshed every {period}", period, partial(_refreshed, start, period))
            for period in settings.periods
        ]
        if name in LOCKS:
            found += [
                _Setting(name, _change(each), each.period, partial(UnlockOnDrift, LOCKS[name], each))
                for each in settings.unlocking
            ]
    return found


def _refreshed(start: Callable[[], Policy], period: int) -> Policy:
    return Refreshed(start(), period)


def _change(unlocking: Unlocking) -> str:
    what = UNLOCKED_BY[unlocking.by == "drift"]
    return f"unlocked above {what} {unlocking.threshold:g}"


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _own(each: _Setting) -> Row:
    return {"rule": each.rule, "change": each.change, "period": each.period}


def _text_row(bench: Workbench, each: _Setting, answers: Mapping[str, Answers]) -> Row:
    own, baseline = answers[each.variant.name], answers[f"{NONE}: {NEVER}"]
    return {
        **_own(each),
        **text_row(own, baseline, seed=bench.options.seed),
        **cost_row(bench.llm.config, own.runs),
        "refreshed_share": _share(sum(run.refreshed for run in own.runs), sum(run.active for run in own.runs)),
        "unlocks_per_lock": _share(sum(run.unlocks for run in own.runs), sum(run.locks for run in own.runs)),
    }


def _problem_row(bench: Workbench, each: _Setting, solved: Mapping[str, Answers]) -> Row:
    own, baseline = solved[each.variant.name], solved[f"{NONE}: {NEVER}"]
    return {
        **_own(each),
        **task_row(bench.llm, own, baseline, seed=bench.options.seed),
        "task_unlocks_per_lock": _share(sum(run.unlocks for run in own.runs), sum(run.locks for run in own.runs)),
    }


def _findings(rows: Sequence[Row], problems: Sequence[Row]) -> list[str]:
    found = []
    solved = {(row["rule"], row["change"]): row for row in problems}
    for rule in dict.fromkeys(row["rule"] for row in rows if row["rule"] != NONE):
        here = [row for row in rows if row["rule"] == rule]
        plain = here[0]
        refreshed = [row for row in here[1:] if row["change"].startswith("refreshed")]
        unlocked = [row for row in here[1:] if row["change"].startswith("unlocked")]
        found.append(f"{rule.capitalize()}, locked for good: {_quality(plain, solved)}.")
        if refreshed:
            best = max(refreshed, key=lambda row: row["agreement"])
            found.append(
                f"{rule.capitalize()}, {best['change']} steps (most agreement of the periods): "
                f"{_quality(best, solved)}; {_price(best, plain)}."
            )
        found += [
            f"{rule.capitalize()}, {row['change']}: {row['unlocks_per_lock'] or 0:.1%} of the locks are undone; "
            f"{_quality(row, solved)}; {_price(row, plain)}."
            for row in unlocked
        ]
    found += _front(rows, "texts", "agreement", "active_ratio")
    found += _front(problems, "problems", "accuracy", "task_active_ratio")
    return found


def _quality(row: Row, solved: Mapping[tuple[str, str], Row]) -> str:
    words = (
        f"Gen-PPL {wording.number(row['ppl_ratio'])} times that without locks ({wording.number(row['ppl_ratio_low'])} "
        f"to {wording.number(row['ppl_ratio_high'])}), agreement {wording.number(row['agreement'], 2)} at an active "
        f"ratio of {wording.number(row['active_ratio'])}"
    )
    task = solved.get((row["rule"], row["change"]))
    if task is None:
        return words
    return (
        f"{words}; of the problems {task['accuracy']:.1%} right ({wording.points(task['difference'])} points against "
        f"no lock, {wording.points(task['difference_low'])} to {wording.points(task['difference_high'])}) at "
        f"{wording.number(task['task_active_ratio'])}"
    )


def _price(row: Row, plain: Row) -> str:
    more = row["active_ratio"] - plain["active_ratio"]
    gain = row["agreement"] - plain["agreement"]
    rows = f"{wording.number(abs(more))} of all rows {'more' if more > 0 else 'less'} than"
    if not float(wording.signed(more)):
        rows = "as many rows as"
    return f"that is {rows} locked for good, with an agreement {_than(gain)}"


def _than(gain: float) -> str:
    if not float(wording.signed(gain)):
        return "as high"
    return f"{wording.number(abs(gain))} {'higher' if gain > 0 else 'lower'}"


def _front(rows: Sequence[Row], what: str, quality: str, cost: str) -> list[str]:
    """Which settings nothing else beats in both."""
    locked = [row for row in rows if row["rule"] != NONE]
    if not locked:
        return []
    best = [row for row in locked if not any(_beats(other, row, quality, cost) for other in locked)]
    best.sort(key=lambda row: float(row[cost]))
    names = [
        f"{row['rule']} {'locked for good' if row['change'] == NEVER else row['change']} "
        f"({wording.number(row[cost])}, {wording.number(row[quality])})"
        for row in best
    ]
    return [
        f"{what.capitalize()}, settings that no other one beats in {quality} without more rows (active ratio, "
        f"{quality}): {wording.listed(names)}."
    ]


def _beats(other: Row, row: Row, quality: str, cost: str) -> bool:
    no_worse = other[quality] >= row[quality] and other[cost] <= row[cost]
    return bool(no_worse and (other[quality] > row[quality] or other[cost] < row[cost]))


def _draw(rows: Sequence[Row], problems: Sequence[Row]) -> Figure:
    from surelock.experiments import style
    from surelock.experiments.sweep.drawing import ppl_ratio_axis

    panels = [(rows, "ppl_ratio", "active_ratio"), (rows, "agreement", "active_ratio")]
    if problems:
        panels.append((problems, "accuracy", "task_active_ratio"))
    figure, (line,) = style.axes_grid(1, len(panels), height=4.4, width=3.3 * len(panels))
    colours = dict(zip((DEFAULT, PAPER, ALWAYS), style.SERIES, strict=False))
    for axes, (shown, key, cost) in zip(line, panels, strict=True):
        for rule, colour in colours.items():
            here = [row for row in shown if row["rule"] == rule]
            kept = sorted(
                (row for row in here if not row["change"].startswith("unlocked")), key=lambda row: float(row[cost])
            )
            axes.plot([row[cost] for row in kept], [row[key] for row in kept], color=colour, linewidth=1, alpha=0.7)
            plain = [row for row in kept if row["change"] == NEVER]
            again = [row for row in kept if row["change"] != NEVER]
            by_kl, by_drift = (
                [row for row in here if row["change"].startswith(f"unlocked above {what}")] for what in UNLOCKED_BY
            )
            for group, marker, size, fill, label in (
                (plain, "o", 8, colour, f"{rule}, locked for good"),
                (again, "o", 5, style.PAGE, f"{rule}, refreshed every P steps"),
                (by_kl, "^", 7, style.PAGE, f"{rule}, unlocked by KL"),
                (by_drift, "v", 7, style.PAGE, f"{rule}, unlocked by K/V drift"),
            ):
                if group:
                    axes.plot(
                        [row[cost] for row in group], [row[key] for row in group], color=colour, marker=marker,
                        markersize=size, markerfacecolor=fill, linestyle="none", label=label,
                    )  # fmt: skip
            for row in again:
                axes.annotate(
                    str(row["period"]), (row[cost], row[key]), textcoords="offset points", xytext=(0, 6), fontsize=7,
                    color=colour, ha="center",
                )  # fmt: skip
        none = next(row[key] for row in shown if row["rule"] == NONE)
        axes.axhline(none, color=style.INK, linewidth=0.9, label="no lock")
        axes.set_xlabel("active ratio, refreshes included")
    line[0].set_ylabel("Gen-PPL ratio")
    ppl_ratio_axis(line[0])
    line[1].set_ylabel("agreement")
    for axes, name in zip(line, ("texts", "texts", "problems"), strict=False):
        axes.set_title(name, fontsize=10)
    if problems:
        line[2].set_ylabel("share of right answers")
    style.legend_below(figure, list(line), columns=3)
    return figure


_CAPTION: Final = (
    "Quality against the rows computed. Large dots: locked for good. Open dots: all locked rows refreshed every P "
    "steps (P beside the dot). Triangles: unlocked by how far they moved. Black line: no lock."
)
_UNLOCK_NOTE: Final = (
    "Refreshed rows: share of the computed rows that are locked ones computed anew. Unlocked: unlocks per lock."
)
FINDING: Final = Experiment("finding", "refresh", "Refresh and unlocking of locked rows", run)
