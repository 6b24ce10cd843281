"""Experiment 2 of the paper, Figure 2: the share of rows computed, step by step, for m = 10, 20 and 40."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from surelock.experiments import published, wording
from surelock.experiments.cost import batches
from surelock.experiments.lengths import Length, longest, of
from surelock.experiments.registry import Experiment
from surelock.experiments.result import Column, Picture, Result, Row, Table
from surelock.experiments.rules import DEFAULT, PAPER, Rule, default_rule, paper_rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surelock.experiments.workbench import Workbench
    from surelock.output import RequestOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The paper's."""

    lengths: tuple[Length, ...] = of(64, 256, 1024)
    thresholds: tuple[float, ...] = (5e-4, 5e-3, 5e-2)
    percentiles: tuple[float, ...] = (10, 20, 40)
    num_prompts: int = 32


QUICK: Final = Settings(lengths=of(64), thresholds=(5e-4, 5e-3), num_prompts=6)

_KEYS: Final = (
    Column("num_generated", "N_gen"),
    Column("threshold", "epsilon", "{:.0e}"),
    Column("rule", "rule"),
    Column("percentile", "m, %", "{:g}"),
)
CURVE_COLUMNS: Final = (
    *_KEYS,
    Column("step"),
    Column("active_ratio"),
    Column("paper_active_ratio"),
    Column("masked_ratio"),
)
COLUMNS: Final = (
    *_KEYS,
    Column("active_ratio", "r-bar", "{:.3f}"),
    Column("last_active_ratio", "r, last step", "{:.3f}"),
    Column("half_step", "half the rows at, share of run", "{:.2f}"),
    Column("paper_active_ratio", "r-bar with padding", "{:.3f}"),
    Column("last_paper_active_ratio", "r with padding, last step", "{:.3f}"),
    Column("published_active_ratio", "published r-bar", "{:.3f}"),
    Column("published_last", "published r, last step", "{:.3f}"),
)


@dataclass(frozen=True, slots=True)
class Curve:
    """One rule at one length: shares of rows in each step.

    Attributes:
        exact: of the canvases' own positions. `padded`: with the padding of batches of four.
        masked: of positions that are masks.
        printed: the paper's, at even shares of the run; None where it has none.
    """

    length: Length
    rule: Rule
    exact: list[float]
    padded: list[float]
    masked: list[float]
    printed: list[float] | None


def run(bench: Workbench) -> Result:
    """Decode under every gate and lay the curves beside the paper's."""
    settings = bench.settings(Settings(), QUICK)
    prompts = bench.prompts.questions(settings.num_prompts)
    lengths, left_out = bench.fitting(settings.lengths, prompts)
    curves = [
        _curve(bench.run(prompts, length, rule), length, rule)
        for length in lengths
        for threshold in settings.thresholds
        for rule in (default_rule(threshold), *(paper_rule(threshold, m) for m in settings.percentiles))
    ]
    rows = [_summary(curve) for curve in curves]
    steps: list[Row] = [
        {
            **_key(curve),
            "step": step,
            "active_ratio": curve.exact[step - 1],
            "paper_active_ratio": curve.padded[step - 1],
            "masked_ratio": curve.masked[step - 1],
        }
        for curve in curves
        for step in range(1, curve.length.steps + 1)
    ]
    main = Table(
        "flops_curves",
        "r: active rows / all rows of a step, which is the step's FLOPs ratio without the head. With padding: rows "
        "that pad the prompts of each batch of four count as rows that never lock, as in the paper. Published: read "
        "off Figure 2, LLaDA-8B-Instruct.",
        COLUMNS,
        rows,
    )
    return Result(
        number=EXPERIMENT.number,
        name=EXPERIMENT.name,
        title=EXPERIMENT.title,
        method=(
            "The runs of experiment 1, with the paper's confidence gate at m = 10, 20 and 40 %, and the default rule, "
            "which has no gate. Means over prompts of the share of rows each step computes."
        ),
        facts=bench.facts(settings, prompts=bench.prompts.question_source, longest_prompt=longest(prompts)),
        tables=[main, Table("flops_curves_by_step", "Every step.", CURVE_COLUMNS, steps, on_page=False)],
        pictures=[
            Picture(
                "flops_curves",
                "Share of rows computed, padding included, as the paper counts. Dashed: the paper's Figure 2 "
                "(LLaDA-8B-Instruct), same colours. Dotted: masked rows alone, without padding.",
                lambda: _draw(curves),
            )
        ]
        if curves
        else [],
        findings=_findings(rows),
        left_out=left_out,
    )


def _curve(outputs: Sequence[RequestOutput], length: Length, rule: Rule) -> Curve:
    own = np.array([output.stats.active_rows for output in outputs])  # [prompts, steps]
    positions = np.array([len(output.canvas_token_ids) for output in outputs])
    pads = np.concatenate([positions[batch].max() - positions[batch] for batch in batches(len(outputs))])
    left = length.num_generated - np.floor(np.arange(length.steps) * length.num_generated / length.steps)
    printed = None
    if rule.percentile is not None and rule.threshold is not None and length.steps == length.num_generated:
        printed = published.active_ratio(rule.percentile, length.num_generated, rule.threshold)
    return Curve(
        length,
        rule,
        (own.sum(0) / positions.sum()).tolist(),
        ((own + pads[:, None]).sum(0) / (positions + pads).sum()).tolist(),
        (left * len(outputs) / positions.sum()).tolist(),
        printed,
    )


def _key(curve: Curve) -> Row:
    return {
        "num_generated": curve.length.num_generated,
        "threshold": curve.rule.threshold,
        "rule": curve.rule.name,
        "percentile": curve.rule.percentile,
    }


def _summary(curve: Curve) -> Row:
    below = [step for step, ratio in enumerate(curve.exact) if ratio <= 0.5]
    return {
        **_key(curve),
        "active_ratio": float(np.mean(curve.exact)),
        "last_active_ratio": curve.exact[-1],
        "half_step": below[0] / curve.length.steps if below else None,
        "paper_active_ratio": float(np.mean(curve.padded)),
        "last_paper_active_ratio": curve.padded[-1],
        "published_active_ratio": None if curve.printed is None else float(np.mean(curve.printed)),
        "published_last": None if curve.printed is None else curve.printed[-1],
    }


def _findings(rows: list[Row]) -> list[str]:
    found = []
    for length in sorted({row["num_generated"] for row in rows}):
        here = [row for row in rows if row["num_generated"] == length]
        gated = [row for row in here if row["rule"] == PAPER]
        free = [row for row in here if row["rule"] == DEFAULT]
        low, high = min(row["percentile"] for row in gated), max(row["percentile"] for row in gated)
        means = {
            m: float(np.mean([row["active_ratio"] for row in gated if row["percentile"] == m])) for m in (low, high)
        }
        side = {"above": "fewer", "below": "more"}.get(wording.against(means[low], means[high]), "as many")
        found.append(
            f"N_gen {length}: a wider gate computes {side} rows: r-bar is "
            f"{wording.number(means[low])} at m = {low:g} % and {wording.number(means[high])} at m = {high:g} %, mean "
            f"over epsilon; without a gate, the default rule has {wording.span([row['active_ratio'] for row in free])}."
        )
        printed = [row for row in gated if row["published_active_ratio"] is not None]
        if printed:
            gap = [row["paper_active_ratio"] - row["published_active_ratio"] for row in printed]
            found.append(
                f"N_gen {length}: with padding counted, r-bar lies {wording.signed_span(gap)} from the paper's curves; "
                "the last step still computes "
                f"{wording.span([row['last_paper_active_ratio'] for row in printed])} of the rows with padding "
                f"(published {wording.span([row['published_last'] for row in printed])}) and "
                f"{wording.span([row['last_active_ratio'] for row in printed])} without."
            )
    return found


def _draw(curves: list[Curve]) -> Figure:
    from surelock.experiments import style

    lengths = sorted({curve.length for curve in curves})
    thresholds = sorted({curve.rule.threshold for curve in curves if curve.rule.threshold is not None})
    figure, panels = style.axes_grid(len(thresholds), len(lengths), height=0.9 + 2.5 * len(thresholds), share_y=True)
    percentiles = sorted({curve.rule.percentile for curve in curves if curve.rule.percentile is not None})
    colour_of = dict(zip([*percentiles, None], (style.GREEN, style.RED, style.PINK, style.BLUE), strict=False))
    for curve in curves:
        assert curve.rule.threshold is not None
        axes = panels[thresholds.index(curve.rule.threshold)][lengths.index(curve.length)]
        colour = colour_of[curve.rule.percentile]
        share = (np.arange(curve.length.steps) + 1) / curve.length.steps
        gate = "no gate" if curve.rule.percentile is None else f"m = {curve.rule.percentile:g} %"
        axes.plot(share, curve.padded, color=colour, linewidth=1.8, label=f"{curve.rule.name}, {gate}")
        if curve.printed is not None:
            axes.plot(
                np.linspace(share[0], 1, len(curve.printed)), curve.printed, color=colour, linewidth=1.3,
                linestyle=style.DASHED,
            )  # fmt: skip
        if curve.rule.name == DEFAULT:
            axes.plot(
                share, curve.masked, color=style.QUIET, linestyle=style.DOTTED, linewidth=1.3, label="masked rows alone"
            )
        axes.set_title(f"N_gen = {curve.length.num_generated}, epsilon = {wording.threshold(curve.rule.threshold)}")
        axes.set_ylim(0, 1.03)
        axes.set_xlim(0, 1)
    for row in panels:
        row[0].set_ylabel("share of rows computed")
    for axes in panels[-1]:
        axes.set_xlabel("step / number of steps")
    if any(curve.printed is not None for curve in curves):
        panels[0][0].plot([], [], color=style.QUIET, linestyle=style.DASHED, label="published, same m and colour")
    style.legend_below(figure, [axes for row in panels for axes in row], columns=3)
    return figure


EXPERIMENT: Final = Experiment("2", "flops_curves", "Active rows step by step", run)
