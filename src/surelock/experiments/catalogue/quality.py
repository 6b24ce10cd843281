"""Experiment 3 of the paper, Table 2: quality of text and tasks against FLOPs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from surelock.eval.task_eval import CanvasKind
from surelock.eval.tasks import TASKS
from surelock.experiments import published, wording
from surelock.experiments.cost import SHORT_COST_COLUMNS, SHORT_COST_NOTE, costs
from surelock.experiments.lengths import Length, of
from surelock.experiments.quality import QUALITY_COLUMNS, QUALITY_NOTE, TextJudge, load_judge
from surelock.experiments.registry import Experiment
from surelock.experiments.result import Column, Picture, Result, Row, Table
from surelock.experiments.rules import DEFAULT, NO_LOCK, NONE, PAPER, Rule, both
from surelock.experiments.task_accuracy import ACCURACY_COLUMNS, ACCURACY_NOTE, task_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surelock.experiments.workbench import Workbench


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The paper's, and the tasks'.

    Attributes:
        task_kinds: names in `TASKS`. num_problems: of each kind.
        task_thresholds: epsilon of the tasks.
        canvases: of the tasks.
    """

    lengths: tuple[Length, ...] = of(
        (64, 32), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (512, 256), (512, 512)
    )
    thresholds: tuple[float, ...] = (5e-4, 5e-3)
    num_prompts: int = 120
    task_kinds: tuple[str, ...] = tuple(TASKS)
    num_problems: int = 24
    task_thresholds: tuple[float, ...] = (5e-4, 5e-3)
    canvases: tuple[CanvasKind, ...] = ("fitted", "padded")


QUICK: Final = Settings(
    lengths=of((64, 32), (64, 64)),
    num_prompts=6,
    # Those with short answers.
    task_kinds=("add", "sub", "count", "weekday", "unit", "story", "shop", "json"),
    num_problems=1,
    task_thresholds=(5e-4,),
    canvases=("fitted",),
)

TEXT_COLUMNS: Final = (
    Column("length", "N_gen/steps"),
    Column("rule", "rule"),
    Column("threshold", "epsilon", "{:.0e}"),
    *QUALITY_COLUMNS,
    *SHORT_COST_COLUMNS,
    Column("published_ppl_ratio", "published Gen-PPL ratio", "{:.2f}"),
    Column("published_flops_ratio", "published FLOPs ratio", "{:.2f}"),
)


def run(bench: Workbench) -> Result:
    """Continue text and answer tasks without locks and under both rules."""
    settings = bench.settings(Settings(), QUICK)
    texts = bench.prompts.texts(settings.num_prompts)
    prompts = [text.canvas for text in texts]
    lengths, left_out = bench.fitting(settings.lengths, prompts)
    judge = load_judge(bench)
    scored = TextJudge(judge, texts, seed=bench.options.seed)
    rules = [NO_LOCK, *(rule for threshold in settings.thresholds for rule in both(threshold))]
    rows: list[Row] = []
    for length in lengths:
        baseline = bench.run(prompts, length, NO_LOCK)
        for rule in rules:
            outputs = bench.run(prompts, length, rule)
            rows.append(
                {
                    "length": str(length),
                    "rule": rule.name,
                    "threshold": rule.threshold,
                    **scored.row(outputs, baseline),
                    **costs(bench.llm.config, outputs, length),
                    **printed(length, rule),
                }
            )
    task_rules = [NO_LOCK, *(rule for threshold in settings.task_thresholds for rule in both(threshold))]
    tasks, task_lines = task_rows(
        bench,
        task_rules,
        kinds=settings.task_kinds,
        num_problems=settings.num_problems,
        canvases=settings.canvases,
    )
    tables = [
        Table("quality", f"{QUALITY_NOTE} {SHORT_COST_NOTE}", TEXT_COLUMNS, rows),
        Table("tasks", ACCURACY_NOTE, ACCURACY_COLUMNS, tasks),
    ]
    pictures = []
    if rows:
        pictures.append(
            Picture(
                "quality",
                "Gen-PPL ratio (to no lock, 95 % interval over prompts) against the exact FLOPs ratio. Grey: the "
                "paper's Table 2 (LLaDA-8B-Base), whose FLOPs ratios count padding.",
                lambda: _draw(rows),
            )
        )
    if tasks:
        pictures.append(
            Picture(
                "tasks",
                "Share of tasks answered rightly, minus that without locks, with a paired 95 % interval; and the exact "
                "FLOPs ratio.",
                lambda: _draw_tasks(tasks),
            )
        )
    return Result(
        number=EXPERIMENT.number,
        name=EXPERIMENT.name,
        title=EXPERIMENT.title,
        method=(
            "Held-out texts are continued after their first 64 tokens, fully parallel at temperature 0, without locks, "
            "under the default rule and under the paper's literal rule; a causal language model judges the "
            "continuations. Tasks with checkable answers are asked through the chat template, steps = N_gen."
        ),
        facts=bench.facts(settings, prompts=bench.prompts.text_source, judge=judge.name),
        tables=tables,
        pictures=pictures,
        findings=[*_findings(rows), *_task_findings(tasks)],
        left_out=[*left_out, *task_lines],
    )


def printed(length: Length, rule: Rule) -> Row:
    """What Table 2 has for this setting."""
    found = None
    if rule.name == PAPER and rule.threshold is not None:
        found = published.TABLE_2.get((length.num_generated, length.steps, rule.threshold))
    return {
        "published_ppl_ratio": found and found.ppl_ratio,
        "published_flops_ratio": found and found.flops_ratio,
    }


def _findings(rows: Sequence[Row]) -> list[str]:
    found = []
    for name in (DEFAULT, PAPER):
        for threshold in sorted({row["threshold"] for row in rows if row["rule"] == name}):
            here = [row for row in rows if row["rule"] == name and row["threshold"] == threshold]
            sure_loss = [row["length"] for row in here if row["ppl_ratio_low"] > 1]
            sure_gain = [row["length"] for row in here if row["ppl_ratio_high"] < 1]
            sentence = (
                f"The {name} at epsilon {wording.threshold(threshold)}: Gen-PPL is "
                f"{wording.span([row['ppl_ratio'] for row in here])} times that without locks "
                f"({wording.exclusions(sure_loss, sure_gain)}), at exact FLOPs ratios of "
                f"{wording.span([row['exact_ratio'] for row in here])} (masked floor "
                f"{wording.span([row['masked_floor'] for row in here])}). Agreement with no lock is "
                f"{wording.span([row['agreement'] for row in here], 2)}."
            )
            if compared := [row for row in here if row["published_ppl_ratio"] is not None]:
                sentence += (
                    f" The paper printed {wording.span([row['published_ppl_ratio'] for row in compared], 2)} for these "
                    "settings on LLaDA-8B-Base."
                )
            found.append(sentence)
    no_lock = {row["length"]: row for row in rows if row["rule"] == NONE}
    if no_lock:
        found.append(_diversity([row for row in rows if row["rule"] == DEFAULT], no_lock))
    return found


def _diversity(rows: Sequence[Row], no_lock: Mapping[str, Row]) -> str:
    change = [row["distinct_3"] - no_lock[row["length"]]["distinct_3"] for row in rows]
    free = wording.span([row["distinct_3"] for row in no_lock.values()])
    sentence = f"Distinct-3 without locks is {free}; the default rule changes it by {wording.signed_span(change)}"
    both = [
        row["length"]
        for row, less in zip(rows, change, strict=True)
        if float(wording.signed(less)) < 0 and float(wording.number(row["ppl_ratio"])) < 1
    ]
    if both:
        places = wording.listed(list(dict.fromkeys(both)))
        sentence += f", at {places} together with a lower Gen-PPL, which may then be repetition rather than quality"
    return f"{sentence}."


def _task_findings(rows: Sequence[Row]) -> list[str]:
    found = []
    for row in rows:
        if row["rule"] == NONE:
            continue
        low, high = row["difference_low"], row["difference_high"]
        found.append(
            f"Tasks, {row['canvas']} canvases, {row['rule']} at epsilon {wording.threshold(row['threshold'])}: "
            f"{row['accuracy']:.1%} of {row['num_problems']} right, {wording.points(row['difference'])} points against "
            f"no lock ({wording.points(low)} to {wording.points(high)}; {row['num_lost']} lost, {row['num_won']} won, "
            f"McNemar's p = {row['mcnemar_p']:.2g}), at an exact FLOPs ratio of {wording.number(row['exact_ratio'])}."
        )
    return found


def _draw(rows: list[Row]) -> Figure:
    from matplotlib.lines import Line2D

    from surelock.experiments import style

    lengths = list(dict.fromkeys(row["length"] for row in rows))
    figure, ((axes,),) = style.axes_grid(1, 1, height=5.2)
    axes.axhline(1, color=style.INK, linewidth=0.9)
    handles: list[Any] = []
    series = [
        (name, threshold)
        for name in (DEFAULT, PAPER)
        for threshold in sorted({row["threshold"] for row in rows if row["rule"] == name})
    ]
    colours = dict(zip(series, (style.BLUE, style.SKY, style.RED, style.ORANGE), strict=False))
    for (name, threshold), colour in colours.items():
        for row in rows:
            if (row["rule"], row["threshold"]) != (name, threshold):
                continue
            marker = style.MARKERS[lengths.index(row["length"]) % len(style.MARKERS)]
            error = [[row["ppl_ratio"] - row["ppl_ratio_low"]], [row["ppl_ratio_high"] - row["ppl_ratio"]]]
            axes.errorbar(
                row["exact_ratio"], row["ppl_ratio"], yerr=error, marker=marker, markersize=7, color=colour,
                elinewidth=1.2, capsize=2.5,
            )  # fmt: skip
            if row["published_ppl_ratio"] is not None:
                axes.plot(
                    row["published_flops_ratio"], row["published_ppl_ratio"], marker=marker, markersize=7,
                    markerfacecolor="none", markeredgecolor=style.QUIET, linestyle="none",
                )  # fmt: skip
        handles.append(
            Line2D([], [], color=colour, linewidth=4, label=f"{name}, epsilon {wording.threshold(threshold)}")
        )
    handles.append(Line2D([], [], color=style.QUIET, linewidth=4, label="published (LLaDA-8B, paper mode)"))
    handles += [
        Line2D([], [], color=style.INK, marker=style.MARKERS[i % len(style.MARKERS)], linestyle="none", label=name)
        for i, name in enumerate(lengths)
    ]
    axes.set_xlabel("FLOPs with locks / without")
    axes.set_ylabel("Gen-PPL with locks / without")
    style.ratio_axis(axes, "y")
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=style.INK)
    return figure


def _draw_tasks(rows: list[Row]) -> Figure:
    from surelock.experiments import style

    shown = [row for row in rows if row["rule"] != NONE]
    names = [f"{row['rule']}, {wording.threshold(row['threshold'])}\n{row['canvas']}" for row in shown]
    figure, ((points, bars),) = style.axes_grid(1, 2, height=1.3 + 0.42 * len(shown), share_y=True)
    places = range(len(shown))
    colours = [style.BLUE if row["rule"] == DEFAULT else style.RED for row in shown]
    for place, row, colour in zip(places, shown, colours, strict=True):
        points.plot(
            [100 * row["difference_low"], 100 * row["difference_high"]], [place, place], color=colour, linewidth=1.6
        )
        points.plot(100 * row["difference"], place, marker="o", color=colour, linestyle="none")
    points.axvline(0, color=style.INK, linewidth=0.9)
    points.set_xlabel("right answers against no lock, points")
    points.set_yticks(list(places), names, fontsize=9)
    points.invert_yaxis()
    drawn = bars.barh(list(places), [row["exact_ratio"] for row in shown], color=colours, height=0.55)
    bars.bar_label(drawn, [f"{row['exact_ratio']:.2f}" for row in shown], padding=3, fontsize=9, color=style.INK)
    bars.set_xlim(0, 1)
    bars.set_xlabel("FLOPs with locks / without")
    bars.tick_params(labelleft=False)
    return figure


EXPERIMENT: Final = Experiment("3", "quality", "Quality against FLOPs", run)
