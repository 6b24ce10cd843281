"""Short outputs: which parts of the locking rule cost quality, on a full grid of its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Final

from surelock.eval.statistics import paired_difference
from surelock.experiments import wording
from surelock.experiments.delayed_cache import Decoded, decode_cached
from surelock.experiments.fitted_tasks import (
    RIGHT_COLUMNS,
    RIGHT_NOTE,
    TRAINED,
    FittedProblem,
    compared,
    fitted_problems,
)
from surelock.experiments.lengths import Length, of
from surelock.experiments.mixture import Run, active_ratio, decode_together
from surelock.experiments.pareto import front
from surelock.experiments.quality import QUALITY_COLUMNS, QUALITY_NOTE, TextJudge, load_judge
from surelock.experiments.registry import Experiment
from surelock.experiments.result import Column, Picture, Result, Row, Table
from surelock.experiments.rules import NONE
from surelock.params import LockParams, SamplingParams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surelock.experiments.workbench import Workbench

LOCK: Final = "lock"
CACHE: Final = "delayed cache"
DEFAULT: Final = LockParams()
PAPER: Final = LockParams.paper()
# What the default rule promises: accuracy within a point of no lock.
MARGIN: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The grid, and what it is measured on.

    Attributes:
        min_visible, percentiles, thresholds: of the rules; percentile None is no gate.
        lengths: of the texts: N_gen and steps.
        tokens_per_step: of the tasks, whose N_gen is fitted to the answer.
        tasks: kinds of problem.
        num_problems: of each kind, for every rule; at most num_close.
        num_close: of each kind, for the rules with visible steps and no gate and for the paper's, at the first of
            tokens_per_step.
        period: steps between two refreshes of the delayed cache.
        num_cache_shapes: the delayed cache answers the problems of so many of the most frequent canvas shapes.
    """

    min_visible: tuple[int, ...] = (0, 1, 2, 3)
    percentiles: tuple[float | None, ...] = (None, 20)
    thresholds: tuple[float, ...] = (5e-5, 5e-4, 5e-3)
    lengths: tuple[Length, ...] = of(
        32, (32, 16), (32, 8), 64, (64, 32), (64, 16), 128, (128, 64), (128, 32)
    )  # fmt: skip
    num_prompts: int = 32
    tokens_per_step: tuple[int, ...] = (1, 2, 4)
    tasks: tuple[str, ...] = TRAINED
    num_problems: int = 8
    num_close: int = 72
    period: int = 8
    num_cache_shapes: int = 8

    def rules(self) -> list[LockParams]:
        """All of the grid."""
        return [
            LockParams(kl_threshold=threshold, confidence_percentile=percentile, min_visible_steps=visible)
            for visible, percentile, threshold in product(self.min_visible, self.percentiles, self.thresholds)
        ]


_QUICK: Final = Settings(
    min_visible=(0, 1, 2),
    thresholds=(5e-4,),
    lengths=of(24, (24, 6)),
    num_prompts=2,
    tokens_per_step=(1,),
    tasks=("unit",),
    num_problems=1,
    num_close=2,
    num_cache_shapes=1,
)

SETTING_COLUMNS: Final = (
    Column("rule", "rule"),
    Column("min_visible", "visible steps"),
    Column("percentile", "gate, %", "{:g}"),
    Column("threshold", "epsilon", "{:.0e}"),
)
TEXT_COLUMNS: Final = (
    Column("length", "N_gen/steps"),
    Column("num_generated"),
    Column("tokens_per_step"),
    *SETTING_COLUMNS,
    *QUALITY_COLUMNS,
    Column("active_ratio", "active rows", "{:.3f}"),
    Column("masked_floor", "masked floor", "{:.3f}"),
)
TASK_COLUMNS: Final = (
    Column("tokens_per_step", "tokens a step"),
    *SETTING_COLUMNS,
    *RIGHT_COLUMNS,
    Column("active_ratio", "active rows", "{:.3f}"),
)

# None stands for no lock.
Rule = LockParams | None


@dataclass(slots=True)
class Answers:
    """Which problems were answered rightly, by number of problem, and the share of rows computed."""

    active_ratio: float
    right: dict[int, bool] = field(default_factory=dict)


Key = tuple[int, Rule]


def run(bench: Workbench) -> Result:
    """Decode texts and problems under every rule of the grid, all together."""
    settings = bench.settings(Settings(), _QUICK)
    texts = bench.prompts.texts(settings.num_prompts)
    lengths, left_out = bench.fitting(settings.lengths, [text.canvas for text in texts])
    problems, lines = fitted_problems(
        bench, settings.tasks, num_per_task=max(settings.num_problems, settings.num_close)
    )
    judge = load_judge(bench)
    text_rows = _text_rows(bench, settings, lengths, TextJudge(judge, texts, seed=bench.options.seed))
    answers = _answers(bench, settings, problems) if problems else {}
    task_rows = _task_rows(answers, seed=bench.options.seed)
    if problems:
        task_rows += _cached_rows(bench, settings, problems)
    first = settings.tokens_per_step[0]
    kinds = _kind_rows(answers, problems, first)
    tables = [
        Table("short_outputs", f"{RIGHT_NOTE}{_CACHE_NOTE}", TASK_COLUMNS, _at(task_rows, first)),
        Table("short_outputs_kinds", _KINDS_NOTE, _kind_columns(kinds), kinds),
        Table("short_outputs_text", f"{QUALITY_NOTE}{_CACHE_TEXT_NOTE}", TEXT_COLUMNS, _at(text_rows, 1)),
        Table("short_outputs_grid_tasks", RIGHT_NOTE, TASK_COLUMNS, task_rows, on_page=False),
        Table("short_outputs_grid_text", f"{QUALITY_NOTE}{_CACHE_TEXT_NOTE}", TEXT_COLUMNS, text_rows, on_page=False),
    ]
    pictures = []
    if text_rows:
        pictures = [
            Picture("short_outputs", _FRONT_CAPTION, lambda: _draw_fronts(_at(task_rows, first), _at(text_rows, 1))),
            Picture("short_outputs_grid", _LOCK_CAPTION, lambda: _draw_grid(task_rows, text_rows)),
        ]
    return Result(
        number=FINDING.number,
        name=FINDING.name,
        title=FINDING.title,
        method=(
            "Every rule of a grid: min_visible_steps (forwards with its own token a row needs before it may lock; 0 is "
            "the paper's), confidence gate, epsilon. Held-out texts are continued after their first 64 tokens, end ids "
            "kept; problems are asked through the chat template with N_gen fitted to the right answer. Temperature 0, "
            "one block. Beside them a baseline that measures nothing: every row that holds a token is kept after one "
            f"forward with it, and all are computed anew in every {settings.period}th step."
        ),
        facts=bench.facts(settings, prompts=bench.prompts.text_source, judge=judge.name),
        tables=tables,
        pictures=pictures,
        findings=[
            *_task_findings(task_rows, answers, first, seed=bench.options.seed),
            *_fast_findings(task_rows, first),
            *_text_findings(text_rows),
            *_rounding_finding(text_rows),
        ],
        left_out=[*left_out, *lines],
    )


def label(row: Row) -> str:
    """A setting in words."""
    if row["rule"] != LOCK:
        return str(row["rule"])
    gate = "no gate" if row["percentile"] is None else f"gate {row['percentile']:g} %"
    return f"visible {row['min_visible']}, {gate}, epsilon {wording.threshold(row['threshold'])}"


def setting(rule: Rule) -> Row:
    """Values of `SETTING_COLUMNS`."""
    if rule is None:
        return {"rule": NONE, "min_visible": None, "percentile": None, "threshold": None}
    return {
        "rule": LOCK,
        "min_visible": rule.min_visible_steps,
        "percentile": rule.confidence_percentile,
        "threshold": rule.kl_threshold,
    }


def cheapest_without_loss(rows: Iterable[Row]) -> Row | None:
    """The fewest active rows among rules whose accuracy is surely within a point of no lock.

    Where nothing is lost the bootstrap's interval has no width; then 3 / n bounds the loss (the rule of three).
    """
    fine = [
        row
        for row in rows
        if row["rule"] == LOCK and row["difference_low"] >= -MARGIN and 3 / row["num_problems"] <= MARGIN
    ]
    return min(fine, key=lambda row: float(row["active_ratio"]), default=None)


def _text_rows(bench: Workbench, settings: Settings, lengths: Sequence[Length], scored: TextJudge) -> list[Row]:
    prompts = [text.canvas for text in bench.prompts.texts(settings.num_prompts)]

    def same(length: Length, rule: Rule) -> Run:
        params = SamplingParams(max_tokens=length.num_generated, steps=length.steps, ignore_eos=True, lock=rule)
        return Run(prompts, [params] * len(prompts))

    rules: list[Rule] = [None, *settings.rules()]
    outputs = decode_together(bench, {(length, rule): same(length, rule) for length in lengths for rule in rules})
    cached = {}
    for length in lengths:
        bench.progress(f"delayed cache, N_gen/steps {length}")
        cached[length] = decode_cached(bench.llm, same(length, None), settings.period)
    bench.progress("scoring texts")
    scored.score_all([*outputs.values(), *(side for sides in cached.values() for side in sides)])
    rows = []
    for length in lengths:
        place = {
            "length": str(length),
            "num_generated": length.num_generated,
            "tokens_per_step": length.num_generated // length.steps,
        }
        floor = _mean([length.masked_floor(len(prompt)) for prompt in prompts])
        free = outputs[length, None]
        for rule in rules:
            own = outputs[length, rule]
            rows.append(
                place
                | setting(rule)
                | scored.row(own, free)
                | {"active_ratio": active_ratio(own), "masked_floor": floor}
            )
        kept, plain = cached[length]
        rows.append(
            place
            | setting(None)
            | {"rule": CACHE}
            | scored.row(kept, plain)
            | {"active_ratio": _cached_ratio(kept), "masked_floor": floor}
        )
    return rows


def _answers(bench: Workbench, settings: Settings, problems: Sequence[FittedProblem]) -> dict[Key, Answers]:
    few = _first_of_each(problems, settings.num_problems)
    close = {
        None,
        PAPER,
        *(rule for rule in settings.rules() if rule.confidence_percentile is None and rule.min_visible_steps),
    }
    asked: dict[Key, list[int]] = {}
    for tokens_per_step in settings.tokens_per_step:
        for rule in (None, *settings.rules()):
            is_close = tokens_per_step == settings.tokens_per_step[0] and rule in close
            asked[tokens_per_step, rule] = list(range(len(problems))) if is_close else few
    runs = {
        (num, rule): Run(
            [problems[index].prompt for index in indices],
            [_task_params(problems[index], num, rule) for index in indices],
        )
        for (num, rule), indices in asked.items()
    }
    found = {}
    for key, outputs in decode_together(bench, runs).items():
        found[key] = Answers(active_ratio(outputs))
        for index, output in zip(asked[key], outputs, strict=True):
            found[key].right[index] = problems[index].is_right(output.text)
    return found


def _task_rows(answers: dict[Key, Answers], *, seed: int) -> list[Row]:
    rows = []
    for (tokens_per_step, rule), own in answers.items():
        free = answers[tokens_per_step, None].right
        same = None if rule is None else [free[index] for index in own.right]
        rows.append(
            {"tokens_per_step": tokens_per_step}
            | setting(rule)
            | compared(list(own.right.values()), same, seed=seed)
            | {"active_ratio": own.active_ratio}
        )
    return rows


def _cached_rows(bench: Workbench, settings: Settings, problems: Sequence[FittedProblem]) -> list[Row]:
    """The delayed cache, against no lock on the same problems."""
    shapes = Counter((len(each.prompt), each.max_tokens) for each in problems)
    frequent = {shape for shape, _ in shapes.most_common(settings.num_cache_shapes)}
    own = [each for each in problems if (len(each.prompt), each.max_tokens) in frequent]
    rows = []
    for num in settings.tokens_per_step:
        bench.progress(f"delayed cache, {len(own)} problems, {num} tokens a step")
        params = [_task_params(each, num, None) for each in own]
        kept, plain = decode_cached(bench.llm, Run([each.prompt for each in own], params), settings.period)
        right, free = (
            [each.is_right(output.text) for each, output in zip(own, side, strict=True)] for side in (kept, plain)
        )
        rows.append(
            {"tokens_per_step": num}
            | setting(None)
            | {"rule": CACHE}
            | compared(right, free, seed=bench.options.seed)
            | {"active_ratio": _cached_ratio(kept)}
        )
    return rows


def _kind_rows(answers: dict[Key, Answers], problems: Sequence[FittedProblem], first: int) -> list[Row]:
    """Accuracy by kind of problem, for the rules that were asked all of them."""
    whole = {rule: own for (num, rule), own in answers.items() if num == first and len(own.right) == len(problems)}
    rows = []
    for task in dict.fromkeys(each.problem.task for each in problems):
        indices = [index for index, each in enumerate(problems) if each.problem.task == task]
        row: Row = {"task": task, "num_problems": len(indices)}
        for rule, own in whole.items():
            row[_short(rule)] = _mean([own.right[index] for index in indices])
        rows.append(row)
    return rows


def _kind_columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    rules = list(rows[0])[2:] if rows else []
    return (
        Column("task", "kind"),
        Column("num_problems", "problems"),
        *(Column(name, name, "{:.1%}") for name in rules),
    )


def _short(rule: Rule) -> str:
    if rule is None:
        return NONE
    gate = "" if rule.confidence_percentile is None else f" gate {rule.confidence_percentile:g}"
    return f"{rule.min_visible_steps} at {wording.threshold(rule.kl_threshold)}{gate}"


def _task_findings(rows: Sequence[Row], answers: dict[Key, Answers], first: int, *, seed: int) -> list[str]:
    here = _at(rows, first)
    found = [_task_sentence(name, row) for name, row in _named_rules(here)]
    grid = [row for row in here if row["rule"] == LOCK]
    if not grid:
        return found
    num_close = max(row["num_problems"] for row in grid)
    close = [row for row in grid if row["num_problems"] == num_close]
    best = cheapest_without_loss(close)
    if best is None:
        found.append(
            f"At {_tokens(first)} no rule asked all {num_close} problems is surely within "
            f"{100 * MARGIN:g} point of no lock (lower end of the 95 % interval)."
        )
    else:
        found.append(
            f"At {_tokens(first)} the cheapest rule surely within {100 * MARGIN:g} point of no lock "
            f"(lower end of the 95 % interval; {num_close} problems) is {label(best)}: "
            f"{_difference(best)}, at {wording.number(best['active_ratio'])} of the rows."
        )
    found += _steps(answers, DEFAULT, first, seed=seed)
    members = [close[index] for index in front([(row["active_ratio"], row["accuracy"]) for row in close])]
    found.append(
        "No other rule asked all problems has both fewer rows and more right answers than "
        + wording.listed(
            [f"{label(row)} ({wording.number(row['active_ratio'])}; {row['accuracy']:.1%})" for row in members]
        )
        + "."
    )
    found += [
        f"Keeping every decoded row after one step, with a refresh: {_difference(row)} on {row['num_problems']} "
        f"problems, at {wording.number(row['active_ratio'])} of the rows."
        for row in here
        if row["rule"] == CACHE
    ]
    return found


def _task_sentence(name: str, row: Row) -> str:
    return (
        f"Problems, {_tokens(row['tokens_per_step'])}, {name} ({label(row)}): {row['accuracy']:.1%} of "
        f"{row['num_problems']} right, {_difference(row)}, at {wording.number(row['active_ratio'])} of the rows."
    )


def _steps(answers: dict[Key, Answers], start: LockParams, first: int, *, seed: int) -> list[str]:
    """What one more visible step, or a tenth of epsilon, changes against the default rule, problem by problem."""
    before = answers.get((first, start))
    changed = {
        "One more visible step than the default rule has changes": LockParams(
            kl_threshold=start.kl_threshold, min_visible_steps=2
        ),
        "A tenth of the default rule's epsilon changes": LockParams(kl_threshold=start.kl_threshold / 10),
        "Both together change": LockParams(kl_threshold=start.kl_threshold / 10, min_visible_steps=2),
    }
    found = []
    for name, rule in changed.items():
        after = answers.get((first, rule))
        if before is None or after is None:
            continue
        shared = sorted(before.right.keys() & after.right.keys())
        gain = paired_difference(
            [after.right[index] for index in shared], [before.right[index] for index in shared], seed=seed
        )
        found.append(
            f"{name} accuracy by {wording.change(gain.value, gain.low, gain.high)} "
            f"and the active rows from "
            f"{wording.number(before.active_ratio)} to {wording.number(after.active_ratio)}."
        )
    return found


def _fast_findings(rows: Sequence[Row], first: int) -> list[str]:
    """Several tokens a step, where the paper's rule and the default one were seen to be level."""
    found = []
    for num in dict.fromkeys(row["tokens_per_step"] for row in rows):
        if num == first:
            continue
        here = _at(rows, num)
        (free,) = [row for row in here if row["rule"] == NONE]
        parts = [
            f"the {name} {row['accuracy']:.1%} ({_difference(row)}; {wording.number(row['active_ratio'])} of the rows)"
            for name, row in _named_rules(here)
        ]
        if parts:
            found.append(
                f"At {_tokens(num)}: {wording.listed(parts)}; no lock answers {free['accuracy']:.1%} of "
                f"{free['num_problems']}."
            )
    return found


def _text_findings(rows: Sequence[Row]) -> list[str]:
    found = []
    for length in dict.fromkeys(row["length"] for row in rows):
        here = [row for row in rows if row["length"] == length]
        pair = [*_named_rules(here), *((CACHE, row) for row in here if row["rule"] == CACHE)]
        parts = [
            f"{wording.number(row['ppl_ratio'])} ({wording.number(row['ppl_ratio_low'])} to "
            f"{wording.number(row['ppl_ratio_high'])}) with the {name} at {wording.number(row['active_ratio'])} of the "
            "rows"
            for name, row in pair
        ]
        by_visible = [
            f"{visible}: {wording.span([row['ppl_ratio'] for row in here if row['min_visible'] == visible])}"
            for visible in dict.fromkeys(row["min_visible"] for row in here if row["rule"] == LOCK)
        ]
        found.append(
            f"Text, N_gen/steps {length}: Gen-PPL against no lock is {wording.listed(parts)}. By visible steps, over "
            f"all gates and epsilons: {'; '.join(by_visible)}. Distinct-3 is "
            f"{wording.span([row['distinct_3'] for row in here])}."
        )
    return found


def _rounding_finding(rows: Sequence[Row]) -> list[str]:
    """How far apart two runs without locks are: the engine's, and the one beside the delayed cache."""
    free = {row["length"]: row["gen_ppl"] for row in rows if row["rule"] == NONE}
    apart = [row["gen_ppl"] / row["ppl_ratio"] / free[row["length"]] for row in rows if row["rule"] == CACHE]
    if not apart:
        return []
    return [
        "The run without locks beside the delayed cache differs from the other one by rounding alone: its Gen-PPL is "
        f"{wording.span(apart)} times that of the other, over all lengths."
    ]


def _draw_fronts(tasks: Sequence[Row], texts: Sequence[Row]) -> Figure:
    from surelock.experiments.short_outputs_figures import fronts

    return fronts(tasks, texts)


def _draw_grid(tasks: Sequence[Row], texts: Sequence[Row]) -> Figure:
    from surelock.experiments.short_outputs_figures import grid

    return grid(tasks, texts)


def _difference(row: Row) -> str:
    return (
        f"{wording.points(row['difference'])} points ({wording.points(row['difference_low'])} to "
        f"{wording.points(row['difference_high'])}; {row['num_lost']} lost, {row['num_won']} won)"
    )


def _tokens(num: int) -> str:
    return "one token a step" if num == 1 else f"{num} tokens a step"


def _named_rules(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """The default rule and the paper's, where they are among the rows."""
    pairs = (("default rule", _of(rows, DEFAULT)), ("paper's rule", _of(rows, PAPER)))
    return [(name, row) for name, row in pairs if row is not None]


def _of(rows: Sequence[Row], rule: LockParams) -> Row | None:
    wanted = setting(rule)
    return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)


def _at(rows: Sequence[Row], tokens_per_step: int) -> list[Row]:
    return [row for row in rows if row["tokens_per_step"] == tokens_per_step]


def _task_params(problem: FittedProblem, tokens_per_step: int, rule: Rule) -> SamplingParams:
    return SamplingParams(max_tokens=problem.max_tokens, steps=-(-problem.max_tokens // tokens_per_step), lock=rule)


def _first_of_each(problems: Sequence[FittedProblem], num: int) -> list[int]:
    seen: Counter[str] = Counter()
    found = []
    for index, each in enumerate(problems):
        seen[each.problem.task] += 1
        if seen[each.problem.task] <= num:
            found.append(index)
    return found


def _cached_ratio(outputs: Sequence[Decoded]) -> float:
    return sum(each.num_active for each in outputs) / sum(each.num_rows for each in outputs)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


_CACHE_NOTE: Final = (
    " Delayed cache: every row that holds a token is kept after one forward with it, all refreshed at times; only on "
    "the problems of the most frequent canvas shapes, against no lock on those."
)
_CACHE_TEXT_NOTE: Final = (
    " Delayed cache: against a run without locks in its own batch, whose sums round otherwise and whose Gen-PPL can "
    "differ from that of the line no lock."
)
_KINDS_NOTE: Final = "Share of right answers by kind of problem; columns: visible steps at epsilon."
_FRONT_CAPTION: Final = (
    "One token a step: right answers against no lock, and Gen-PPL against no lock, over the share of rows computed. "
    "Grey lines: rules that none beats in both, of those asked as many problems (the table has the numbers). Bars: "
    "95 % intervals, of rules without a gate."
)
_LOCK_CAPTION: Final = (
    "Gen-PPL with locks / without (texts), and right answers against no lock in points (problems), for every rule of "
    "the grid; orange is worse."
)
FINDING: Final = Experiment(
    "finding", "short_outputs", "Does waiting for visible rows remove the loss on short outputs?", run
)
