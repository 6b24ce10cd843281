"""Experiment 5 of the paper, Table 4: computing a fixed share of the active rows, alone and with locks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surelock.decoding.selection import ActiveShare
from surelock.experiments import published, wording
from surelock.experiments.cost import SHORT_COST_COLUMNS, SHORT_COST_NOTE, costs
from surelock.experiments.lengths import Length, of
from surelock.experiments.quality import QUALITY_COLUMNS, QUALITY_NOTE, TextJudge, load_judge
from surelock.experiments.registry import Experiment
from surelock.experiments.result import Column, Picture, Result, Row, Table
from surelock.experiments.rules import DEFAULT, NO_LOCK, NONE, PAPER, both

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surelock.experiments.workbench import Workbench


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The paper's: k = 0.8 at N_gen = steps = 256."""

    lengths: tuple[Length, ...] = of(256)
    threshold: float = 5e-3
    share: float = 0.8
    num_prompts: int = 32


QUICK: Final = Settings(lengths=of(64), num_prompts=6)

COLUMNS: Final = (
    Column("length", "N_gen/steps"),
    Column("rule", "rule"),
    Column("share", "k", "{:g}"),
    *SHORT_COST_COLUMNS,
    Column("expected_ratio", "k x exact of the rule", "{:.3f}"),
    *QUALITY_COLUMNS,
    Column("published_flops_ratio", "published FLOPs ratio", "{:.2f}"),
    Column("published_speed_up", "published TPS ratio", "{:.2f}"),
)


def run(bench: Workbench) -> Result:
    """Decode with and without the share, with and without locks."""
    settings = bench.settings(Settings(), QUICK)
    texts = bench.prompts.texts(settings.num_prompts)
    prompts = [text.canvas for text in texts]
    lengths, left_out = bench.fitting(settings.lengths, prompts)
    judge = load_judge(bench)
    scored = TextJudge(judge, texts, seed=bench.options.seed)
    selector = ActiveShare(settings.share)
    rows: list[Row] = []
    for length in lengths:
        if -(-length.num_generated // length.steps) > selector.max_quota:
            left_out.append(
                f"N_gen/steps {length}: row selection takes at most {selector.max_quota} tokens a step; raise the steps"
            )
            continue
        baseline = bench.run(prompts, length, NO_LOCK)
        for rule in (NO_LOCK, *both(settings.threshold)):
            alone: float | None = None
            for used in (None, selector):
                outputs = bench.run(prompts, length, rule, selector=used)
                cost = costs(bench.llm.config, outputs, length)
                alone = alone or cost["exact_ratio"]
                key = {(NONE, True): "selection", (PAPER, False): "locking", (PAPER, True): "both"}
                printed = published.TABLE_4.get(key.get((rule.name, used is not None), ""))
                rows.append(
                    {
                        "length": str(length),
                        "rule": rule.name,
                        "share": None if used is None else used.share,
                        **cost,
                        "expected_ratio": None if used is None else used.share * alone,
                        **scored.row(outputs, baseline),
                        "published_flops_ratio": printed and printed.flops_ratio,
                        "published_speed_up": printed and printed.speed_up,
                    }
                )
    return Result(
        number=EXPERIMENT.number,
        name=EXPERIMENT.name,
        title=EXPERIMENT.title,
        method=(
            f"Each step computes the share k = {settings.share:g} of the active rows, masked and unmasked ones apart: "
            "new tokens first, then those computed longest ago; in the first step all. The paper does not say "
            "which rows its selection takes. Rows left out keep their keys and values. Text continuations of 64-token "
            f"prompts, epsilon {wording.threshold(settings.threshold)}. Nothing is timed here."
        ),
        facts=bench.facts(settings, prompts=bench.prompts.text_source, judge=judge.name),
        tables=[
            Table(
                "selection",
                f"{SHORT_COST_NOTE} {QUALITY_NOTE} Published: Table 4, whose FLOPs ratios with selection do not follow "
                "from the paper's own way of counting.",
                COLUMNS,
                rows,
            )
        ],
        pictures=[
            Picture(
                "selection",
                "Exact FLOPs ratio, beside the paper's Table 4 (diamonds, LLaDA-8B, padding counted), and Gen-PPL "
                "ratio with its 95 % interval over prompts.",
                lambda: _draw(rows),
            )
        ]
        if rows
        else [],
        findings=_findings(rows, settings.share),
        left_out=left_out,
    )


def _findings(rows: list[Row], share: float) -> list[str]:
    found = []
    for length in dict.fromkeys(row["length"] for row in rows):
        here = {(row["rule"], row["share"] is not None): row for row in rows if row["length"] == length}
        only = here[NONE, True]
        found.append(
            f"N_gen/steps {length}: selection alone computes {wording.number(only['exact_ratio'])} of the FLOPs, "
            f"{wording.against(only['exact_ratio'], share)} the k = {share:g} it asks for (groups are rounded up and "
            f"the first step is whole), with Gen-PPL {wording.number(only['ppl_ratio'])} times "
            f"({wording.number(only['ppl_ratio_low'])} to {wording.number(only['ppl_ratio_high'])}). The paper printed "
            "0.64 at N_gen 256."
        )
        for name in (DEFAULT, PAPER):
            without, with_share = here[name, False], here[name, True]
            saving = 1 - with_share["exact_ratio"] / without["exact_ratio"]
            found.append(
                f"N_gen/steps {length}, {name}: selection on top of locking takes the exact FLOPs ratio from "
                f"{wording.number(without['exact_ratio'])} to {wording.number(with_share['exact_ratio'])} "
                f"({abs(saving):.1%} {'less' if saving >= 0 else 'more'} than locking leaves; {share:g} times would be "
                f"{wording.number(with_share['expected_ratio'])}), and Gen-PPL from "
                f"{wording.number(without['ppl_ratio'])} to {wording.number(with_share['ppl_ratio'])} times that of no "
                f"lock ({wording.number(with_share['ppl_ratio_low'])} to "
                f"{wording.number(with_share['ppl_ratio_high'])})."
            )
    return found


def _draw(rows: list[Row]) -> Figure:
    from surelock.experiments import style

    lengths = list(dict.fromkeys(row["length"] for row in rows))
    figure, (panels,) = style.axes_grid(1, 2, height=1.4 + 0.42 * len(rows), share_y=True)
    cost, quality = panels
    names, colours = [], []
    for row in rows:
        name = row["rule"] + ("" if row["share"] is None else f" + k = {row['share']:g}")
        names.append(name if len(lengths) == 1 else f"{row['length']}: {name}")
        colours.append({NONE: style.QUIET, DEFAULT: style.BLUE, PAPER: style.RED}[row["rule"]])
    places = list(range(len(rows)))
    cost.barh(places, [row["exact_ratio"] for row in rows], color=colours, height=0.6)
    for place, row in zip(places, rows, strict=True):
        # In a column of its own: beside the bar it would meet a diamond.
        cost.text(1.16, place, f"{row['exact_ratio']:.2f}", ha="right", va="center", fontsize=9, color=style.INK)
    printed = [(row["published_flops_ratio"], place) for place, row in enumerate(rows) if row["published_flops_ratio"]]
    if printed:
        cost.plot(
            *zip(*printed, strict=True), color=style.INK, marker="D", markerfacecolor=style.PAGE, linestyle="none",
            label="published, N_gen 256, LLaDA-8B",
        )  # fmt: skip
    cost.set_xlim(0, 1.18)
    cost.set_yticks(places, names, fontsize=9)
    cost.invert_yaxis()
    cost.set_xlabel("FLOPs ratio, exact")
    for place, row, colour in zip(places, rows, colours, strict=True):
        quality.plot([row["ppl_ratio_low"], row["ppl_ratio_high"]], [place, place], color=colour, linewidth=1.8)
        quality.plot(row["ppl_ratio"], place, marker="o", color=colour, linestyle="none")
    quality.axvline(1, color=style.INK, linewidth=0.9)
    quality.set_xlabel("Gen-PPL ratio")
    style.ratio_axis(quality, "x")
    quality.tick_params(labelleft=False)
    if printed:
        style.legend_below(figure, cost)
    return figure


EXPERIMENT: Final = Experiment("5", "selection", "Row selection, alone and with locks", run)
