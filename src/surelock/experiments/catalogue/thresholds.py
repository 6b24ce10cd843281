"""Experiment 6, the paper's Table 5: quality and FLOPs over eight orders of magnitude of epsilon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surelock.experiments import published, wording
from surelock.experiments.cost import SHORT_COST_COLUMNS, SHORT_COST_NOTE, costs
from surelock.experiments.lengths import Length, of
from surelock.experiments.quality import QUALITY_COLUMNS, QUALITY_NOTE, TextJudge, load_judge
from surelock.experiments.registry import Experiment
from surelock.experiments.result import Column, Picture, Result, Row, Table
from surelock.experiments.rules import DEFAULT, NO_LOCK, PAPER, Rule, both
from surelock.params import MIN_HALF_PRECISION_KL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surelock.experiments.workbench import Workbench


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The paper's epsilons, and those between them."""

    lengths: tuple[Length, ...] = of(64)
    thresholds: tuple[float, ...] = (5e-8, 5e-7, 5e-6, 5e-5, 5e-4, 5e-3, 5e-2)
    num_prompts: int = 120


QUICK: Final = Settings(thresholds=(5e-8, 5e-6, 5e-4, 5e-3, 5e-2), num_prompts=6)

COLUMNS: Final = (
    Column("length", "N_gen/steps"),
    Column("threshold", "epsilon", "{:.0e}"),
    Column("rule", "rule"),
    *QUALITY_COLUMNS,
    *SHORT_COST_COLUMNS,
    Column("published_ppl_ratio", "published Gen-PPL ratio", "{:.2f}"),
    Column("published_flops_ratio", "published FLOPs ratio", "{:.2f}"),
)


def run(bench: Workbench) -> Result:
    """Continue the same texts at every epsilon."""
    import torch

    settings = bench.settings(Settings(), QUICK)
    texts = bench.prompts.texts(settings.num_prompts)
    prompts = [text.canvas for text in texts]
    lengths, left_out = bench.fitting(settings.lengths, prompts)
    thresholds = settings.thresholds
    if bench.llm.dtype != torch.float32:
        thresholds = tuple(each for each in thresholds if each >= MIN_HALF_PRECISION_KL)
        left_out += [
            f"epsilon {wording.threshold(each)}: below {MIN_HALF_PRECISION_KL:g} a half-precision model measures "
            "rounding; use --dtype float32"
            for each in settings.thresholds
            if each not in thresholds
        ]
    judge = load_judge(bench)
    scored = TextJudge(judge, texts, seed=bench.options.seed)
    rows: list[Row] = []
    for length in lengths:
        baseline = bench.run(prompts, length, NO_LOCK)
        for threshold in thresholds:
            for rule in both(threshold):
                outputs = bench.run(prompts, length, rule)
                rows.append(
                    {
                        "length": str(length),
                        "threshold": threshold,
                        "rule": rule.name,
                        **scored.row(outputs, baseline),
                        **costs(bench.llm.config, outputs, length),
                        **printed(length, rule),
                    }
                )
    return Result(
        number=EXPERIMENT.number,
        name=EXPERIMENT.name,
        title=EXPERIMENT.title,
        method=(
            "The text continuations of experiment 3 at N_gen = steps = 64, with epsilon from 5e-8 to 5e-2, under the "
            "default rule and the paper's literal rule."
        ),
        facts=bench.facts(settings, prompts=bench.prompts.text_source, judge=judge.name),
        tables=[Table("thresholds", f"{QUALITY_NOTE} {SHORT_COST_NOTE}", COLUMNS, rows)],
        pictures=[
            Picture(
                "thresholds",
                "Gen-PPL ratio (band: 95 % interval over prompts), exact FLOPs ratio and agreement against epsilon. "
                "Diamonds: the paper's Table 5 (LLaDA-8B-Base; FLOPs with padding). Dotted: masked floor.",
                lambda: _draw(rows),
            )
        ]
        if rows
        else [],
        findings=_findings(rows),
        left_out=left_out,
    )


def printed(length: Length, rule: Rule) -> Row:
    """What Table 5 has for this setting."""
    found = None
    if rule.name == PAPER and rule.threshold is not None and length == Length(64, 64):
        found = published.TABLE_5.get(rule.threshold)
    return {"published_ppl_ratio": found and found[0], "published_flops_ratio": found and found[1]}


def _findings(rows: list[Row]) -> list[str]:
    found = []
    for length in dict.fromkeys(row["length"] for row in rows):
        for name in (DEFAULT, PAPER):
            here = [row for row in rows if row["length"] == length and row["rule"] == name]
            low, high = here[0], here[-1]
            above = [wording.threshold(row["threshold"]) for row in here if row["ppl_ratio_low"] > 1]
            below = [wording.threshold(row["threshold"]) for row in here if row["ppl_ratio_high"] < 1]
            found.append(
                f"N_gen/steps {length}, {name}: from epsilon {wording.threshold(low['threshold'])} to "
                f"{wording.threshold(high['threshold'])} the exact FLOPs ratio goes from "
                f"{wording.number(low['exact_ratio'])} to {wording.number(high['exact_ratio'])} (masked floor "
                f"{wording.number(low['masked_floor'])}), Gen-PPL from {wording.number(low['ppl_ratio'])} to "
                f"{wording.number(high['ppl_ratio'])} times that without locks "
                f"({wording.exclusions(above, below)}), agreement from {wording.number(low['agreement'], 2)} to "
                f"{wording.number(high['agreement'], 2)}."
            )
            if name == PAPER:
                found.append(_smallest(low))
    return found


def _smallest(row: Row) -> str:
    interval = f"{wording.number(row['ppl_ratio_low'])} to {wording.number(row['ppl_ratio_high'])}"
    verdict = "shows no loss of Gen-PPL that its interval could tell from none"
    if row["ppl_ratio_low"] > 1:
        verdict = "still loses Gen-PPL: a smaller epsilon does not make a row visible"
    elif row["ppl_ratio_high"] < 1:
        verdict = "has a lower Gen-PPL than no lock"
    return (
        f"At epsilon {wording.threshold(row['threshold'])} the paper's rule {verdict} "
        f"({wording.number(row['ppl_ratio'])} times, {interval}); the paper printed 1.14 at 5e-8."
    )


def _draw(rows: list[Row]) -> Figure:
    from surelock.experiments import style

    lengths = list(dict.fromkeys(row["length"] for row in rows))
    figure, panels = style.axes_grid(3, len(lengths), height=7.6)
    for column, length in enumerate(lengths):
        quality, cost, same = (panels[index][column] for index in range(3))
        for name, colour, marker in ((DEFAULT, style.BLUE, "o"), (PAPER, style.RED, "s")):
            here = [row for row in rows if row["length"] == length and row["rule"] == name]
            x = [row["threshold"] for row in here]
            quality.fill_between(
                x, [row["ppl_ratio_low"] for row in here], [row["ppl_ratio_high"] for row in here], color=colour,
                alpha=0.16, linewidth=0,
            )  # fmt: skip
            for axes, key in ((quality, "ppl_ratio"), (cost, "exact_ratio"), (same, "agreement")):
                axes.plot(x, [row[key] for row in here], color=colour, marker=marker, label=name)
            for axes, key in ((quality, "published_ppl_ratio"), (cost, "published_flops_ratio")):
                points = [(row["threshold"], row[key]) for row in here if row[key] is not None]
                if points:
                    axes.plot(
                        *zip(*points, strict=True), color=style.INK, marker="D", markerfacecolor="none",
                        linestyle="none", label="published, LLaDA-8B",
                    )  # fmt: skip
        quality.axhline(1, color=style.INK, linewidth=0.9)
        floor = next(row["masked_floor"] for row in rows if row["length"] == length)
        cost.axhline(floor, color=style.QUIET, linestyle=style.DOTTED, label="masked floor")
        quality.set_ylabel("Gen-PPL ratio")
        style.ratio_axis(quality, "y")
        cost.set_ylabel("FLOPs ratio")
        same.set_ylabel("agreement")
        cost.set_ylim(0, 1.02)
        same.set_ylim(0, 1.02)
        for axes in (quality, cost, same):
            style.epsilon_axis(axes, x)
            axes.label_outer()
        quality.set_title(f"N_gen/steps = {length}")
    style.legend_below(figure, [axes for row in panels for axes in row], columns=4)
    return figure


EXPERIMENT: Final = Experiment("6", "thresholds", "Thresholds from 5e-8 to 5e-2", run)
