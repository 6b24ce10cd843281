"""Experiment 2 of the paper, Figure 2: the share of rows computed, step by step, for m = 10, 20 and 40."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from studies import published
from studies.bench import Bench, Length, Text, lengths
from studies.decoders import PAPER, PERMANENT, rule
from studies.measures import Comparison, Outcome, batches
from studies.plots import Panel, picture
from studies.study import Cell, Plot, Row, Study, Table
from studies.workload import continuations
from surelock.params import LockParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The paper's."""

    lengths: tuple[Length, ...] = lengths(64, 256, 1024)
    thresholds: tuple[float, ...] = (5e-4, 5e-3, 5e-2)
    percentiles: tuple[float, ...] = (10, 20, 40)
    num_prompts: int = 32


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length."""
    prompts = [Text("", canvas) for canvas in bench.questions(settings.num_prompts)]
    of = {each.num_generated: each for each in bench.fitting(settings.lengths, [text.canvas for text in prompts])}
    decoders = []
    for threshold in settings.thresholds:
        decoders.append(rule(PERMANENT, LockParams.permanent(threshold), percentile=None))
        for m in settings.percentiles:
            lock = replace(LockParams.paper(threshold), confidence_percentile=m)
            decoders.append(rule(PAPER, lock, percentile=m))
    return Comparison(
        table="flops_curves",
        points=[{"num_generated": num} for num in of],
        workload=lambda at: continuations(prompts, of[at["num_generated"]]),
        decoders=lambda at: decoders,
        measures=(summary,),
        more=lambda found: {"flops_curves_by_step": [row for outcome in found for row in steps(outcome)]},
    ).cells(bench)


def steps(found: Outcome) -> list[Row]:
    """Shares of rows in each step: of the canvases' own positions, padded as batches of four, masked, and printed."""
    rows = np.array([run.rows for run in found.runs])  # [prompts, steps]
    positions = np.array([run.num_positions for run in found.runs])
    pads = np.concatenate([positions[batch].max() - positions[batch] for batch in batches(len(found.runs))])
    num, num_steps = found.cases[0].params.max_tokens, rows.shape[1]
    left = num - np.floor(np.arange(num_steps) * num / num_steps)
    curve = _printed(found)
    at = np.linspace(0, 1, num_steps)
    printed = [None] * num_steps if curve is None else np.interp(at, np.linspace(0, 1, len(curve)), curve).tolist()
    columns = {
        "active_ratio": (rows.sum(0) / positions.sum()).tolist(),
        "paper_active_ratio": ((rows + pads[:, None]).sum(0) / (positions + pads).sum()).tolist(),
        "masked_ratio": (left * len(rows) / positions.sum()).tolist(),
        "published": printed,
    }
    key = {**found.point, **found.decoder.label}
    return [
        {**key, "step": step + 1, **{name: values[step] for name, values in columns.items()}}
        for step in range(num_steps)
    ]


def summary(found: Outcome) -> Row:
    """Means of the curves, and the paper's."""
    rows, printed = steps(found), _printed(found)
    own, padded = ([row[name] for row in rows] for name in ("active_ratio", "paper_active_ratio"))
    return {
        "active_ratio": float(np.mean(own)),
        "last_active_ratio": own[-1],
        "half_step": next((step / len(own) for step, ratio in enumerate(own) if ratio <= 0.5), None),
        "paper_active_ratio": float(np.mean(padded)),
        "last_paper_active_ratio": padded[-1],
        "published_active_ratio": None if printed is None else float(np.mean(printed)),
        "published_last": None if printed is None else printed[-1],
    }


def _printed(found: Outcome) -> list[float] | None:
    """The paper's curve for this setting."""
    params, label = found.cases[0].params, found.decoder.label
    if label["percentile"] is None or params.steps != params.max_tokens:
        return None
    return published.active_ratio(label["percentile"], params.max_tokens, label["threshold"])


STUDY: Final = Study(
    number="2",
    name="flops_curves",
    title="Active rows step by step",
    method="The runs of experiment 1, with the paper's confidence gate at m = {percentiles} %, and the permanent rule, "
    "which has no gate. Means over prompts of the share of rows each step computes.",
    settings=Settings(),
    quick=Settings(lengths=lengths(64), thresholds=(5e-4, 5e-3), num_prompts=6),
    grid=grid,
    tables=(
        Table("flops_curves", "Active ratio: active rows / all rows of a step, which is the step's FLOPs ratio "
              "without the head; the paper's counts rows that pad the prompts of each batch of four, which never "
              "lock. Half step: share of the run after which half the rows are active. Published: read off Figure 2, "
              "LLaDA-8B-Instruct."),
        Table("flops_curves_by_step", columns=None),
    ),
    plots=(
        Plot("flops_curves", "Share of rows computed under the paper's rule, padding included, as the paper counts; "
             "and the paper's Figure 2 (LLaDA-8B-Instruct). Colour: epsilon; dash: m.", picture(
            Panel("flops_curves_by_step", "step", "paper_active_ratio published", "threshold percentile",
                  "num_generated", only={"rule": PAPER}),
        )),
    ),
)  # fmt: skip
