"""Experiment 1 of the paper, Table 1: FLOPs over N_gen and epsilon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surelock.bench.shapes import LLADA_8B
from surelock.experiments import published, wording
from surelock.experiments.cost import COST_COLUMNS, COST_NOTE, costs
from surelock.experiments.lengths import Length, longest, of
from surelock.experiments.registry import Experiment
from surelock.experiments.result import Column, Picture, Result, Row, Table
from surelock.experiments.rules import DEFAULT, PAPER, Rule, both
from surelock.flops import paper_batch, truncated

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surelock.experiments.workbench import Workbench

NUM_SELF_CHECK_PROMPT: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The paper's."""

    lengths: tuple[Length, ...] = of(64, 256, 1024)
    thresholds: tuple[float, ...] = (5e-4, 5e-3, 5e-2)
    num_prompts: int = 32


QUICK: Final = Settings(lengths=of(64), num_prompts=6)

COLUMNS: Final = (
    Column("num_generated", "N_gen"),
    Column("threshold", "epsilon", "{:.0e}"),
    Column("rule", "rule"),
    *COST_COLUMNS,
    Column("published_active_ratio"),
    Column("published_locked"),
    Column("published_ratio", "published, paper mode", "{:.3f}"),
)


def run(bench: Workbench) -> Result:
    """Decode under both rules, count, and count the paper's own baselines again."""
    settings = bench.settings(Settings(), QUICK)
    prompts = bench.prompts.questions(settings.num_prompts)
    lengths, left_out = bench.fitting(settings.lengths, prompts)
    rows: list[Row] = []
    for length in lengths:
        for threshold in settings.thresholds:
            for rule in both(threshold):
                rows.append(
                    {
                        "num_generated": length.num_generated,
                        "threshold": threshold,
                        "rule": rule.name,
                        **costs(bench.llm.config, bench.run(prompts, length, rule), length),
                        **printed(length, rule),
                    }
                )
    checks = self_check()
    main = Table("flops_table", COST_NOTE, COLUMNS, rows)
    check = Table(
        "self_check",
        "FLOPs without locks of LLaDA-8B per row (64-token prompts), counted here and as the paper's Table 2 prints "
        "them: digits are cut, not rounded.",
        (
            Column("length", "N_gen/steps"),
            Column("counted", "counted"),
            Column("published", "published"),
            Column("equal", "equal"),
        ),
        checks,
    )
    return Result(
        number=EXPERIMENT.number,
        name=EXPERIMENT.name,
        title=EXPERIMENT.title,
        method=(
            "Prompts are decoded with as many steps as tokens, fully parallel, at temperature 0, under the default "
            "rule (visible for one step, no gate) and the paper's literal rule (gate at m = 20 %, no visibility). "
            "Nothing is timed: FLOPs are counted from the rows each step computed."
        ),
        facts=bench.facts(settings, prompts=bench.prompts.question_source, longest_prompt=longest(prompts)),
        tables=[main, check],
        pictures=[
            Picture(
                "flops_table", "FLOPs ratio against epsilon; the dotted line is the masked floor.", lambda: _draw(rows)
            )
        ]
        if rows
        else [],
        findings=_findings(rows, checks),
        left_out=left_out,
    )


def printed(length: Length, rule: Rule) -> Row:
    """What Table 1 has for this setting."""
    found = None
    if rule.name == PAPER and rule.threshold is not None and length.steps == length.num_generated:
        found = published.TABLE_1.get((length.num_generated, rule.threshold))
    return {
        "published_active_ratio": found and found.active_ratio,
        "published_locked": found and found.locked,
        "published_ratio": found and found.ratio,
    }


def self_check() -> list[Row]:
    """The paper's baselines, counted by `paper_batch` on the shape of LLaDA-8B."""
    rows: list[Row] = []
    for (num_generated, steps), wanted in published.TABLE_2_BASE.items():
        counted = paper_batch(
            LLADA_8B, prompt_lengths=[NUM_SELF_CHECK_PROMPT] * 4, num_generated=num_generated, steps=steps
        )
        shown = truncated(counted["base"])
        rows.append(
            {
                "length": f"{num_generated}/{steps}",
                "counted": shown,
                "published": wanted,
                "equal": "yes" if shown == wanted else "no",
            }
        )
    return rows


def _findings(rows: list[Row], checks: list[Row]) -> list[str]:
    num_equal = sum(check["equal"] == "yes" for check in checks)
    found = [f"The counter gives {num_equal} of the {len(checks)} baselines of the paper's Table 2 digit for digit."]
    for length in sorted({row["num_generated"] for row in rows}):
        here = [row for row in rows if row["num_generated"] == length]
        of_rule = {name: [row["exact_ratio"] for row in here if row["rule"] == name] for name in (DEFAULT, PAPER)}
        floor = here[0]["masked_floor"]
        found.append(
            f"N_gen {length}: the exact FLOPs ratio is {wording.span(of_rule[DEFAULT])} under the default rule and "
            f"{wording.span(of_rule[PAPER])} under the paper's, over all epsilon; no locking could go below "
            f"{wording.number(floor)} here. The default rule's best is "
            f"{wording.number(min(of_rule[DEFAULT]) / floor, 2)} times that floor."
        )
        compared = [row for row in here if row["published_ratio"] is not None]
        if compared:
            gap = [row["paper_ratio"] - row["published_ratio"] for row in compared]
            found.append(
                f"N_gen {length}: counted as the paper does, its rule gives "
                f"{wording.span([row['paper_ratio'] for row in compared])} where the paper printed "
                f"{wording.span([row['published_ratio'] for row in compared])} for LLaDA-8B-Instruct (difference "
                f"{wording.signed_span(gap)}); model, prompts and padding differ."
            )
    return found


def _draw(rows: list[Row]) -> Figure:
    from surelock.experiments import style

    lengths = sorted({row["num_generated"] for row in rows})
    figure, (panels,) = style.axes_grid(1, len(lengths), height=4.0, share_y=True)
    for axes, length in zip(panels, lengths, strict=True):
        here = [row for row in rows if row["num_generated"] == length]
        thresholds = [row["threshold"] for row in here if row["rule"] == PAPER]
        for name, key, colour, marker, dash in (
            (DEFAULT, "exact_ratio", style.BLUE, "o", "-"),
            (PAPER, "exact_ratio", style.RED, "s", "-"),
            (PAPER, "paper_ratio", style.RED, "s", style.DASHED),
        ):
            values = [row[key] for row in here if row["rule"] == name]
            counted = "exact" if key == "exact_ratio" else "paper mode"
            axes.plot(thresholds, values, color=colour, marker=marker, linestyle=dash, label=f"{name}, {counted}")
        points = [(row["threshold"], row["published_ratio"]) for row in here if row["published_ratio"] is not None]
        if points:
            axes.plot(
                *zip(*points, strict=True), color=style.INK, marker="D", markerfacecolor="none", linestyle="none",
                label="published, LLaDA-8B, paper mode",
            )  # fmt: skip
        axes.axhline(here[0]["masked_floor"], color=style.QUIET, linestyle=style.DOTTED, label="masked floor, exact")
        style.epsilon_axis(axes, thresholds)
        axes.set_title(f"N_gen = {length}")
        axes.set_ylim(0, 1)
    panels[0].set_ylabel("FLOPs with locks / without")
    style.legend_below(figure, panels, columns=2)
    return figure


EXPERIMENT: Final = Experiment("1", "flops_table", "FLOPs over length and threshold", run)
