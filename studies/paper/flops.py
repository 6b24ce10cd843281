"""Experiments 1 and 2 of the paper, Table 1 and Figure 2: FLOPs over N_gen and epsilon, and rows step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from studies import published
from studies.bench import Bench, lengths
from studies.decoders import PAPER, PERMANENT, both, rule
from studies.measures import PAPER_NOTE, Comparison, Outcome, batches, paper_cost
from studies.plots import Panel, Plot
from studies.study import Cell, Row, Rows, Settings, Study, Table
from surelock.bench.shapes import LLADA_8B
from surelock.flops import paper_batch, truncated
from surelock.params import LockParams

# The paper's.
SETTINGS: Final[dict[str, Any]] = {
    "lengths": lengths(64, 256, 1024), "thresholds": (5e-4, 5e-3, 5e-2), "num_prompts": 32,
}  # fmt: skip


def table_grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length."""
    decoders = [rule for threshold in settings.thresholds for rule in both(threshold)]
    return Comparison(bench, "flops_table", decoders, (paper_cost, printed)).of_questions(settings)


def printed(found: Outcome) -> Row:
    """What Table 1 has for this setting."""
    num, label = found.params.max_tokens, found.decoder.label
    is_papers = label["rule"] == PAPER and found.params.steps == num
    return published.columns(published.FLOPS, published.TABLE_1.get((num, label["threshold"])) if is_papers else None)


def self_check(bench: Bench, settings: Settings, rows: Rows) -> Rows:
    """The paper's baselines, counted by `paper_batch` on the shape of LLaDA-8B with prompts of 64 tokens."""
    found: list[Row] = []
    for (num, steps), wanted in published.TABLE_2_BASE.items():
        counted = truncated(paper_batch(LLADA_8B, prompt_lengths=[64] * 4, num_generated=num, steps=steps)["base"])
        equal = "yes" if counted == wanted else "no"
        found.append({"length": f"{num}/{steps}", "counted": counted, "published": wanted, "equal": equal})
    return {"self_check": found}


def curves_grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length."""
    decoders = []
    for threshold in settings.thresholds:
        decoders.append(rule(PERMANENT, LockParams.permanent(threshold), percentile=None))
        for m in settings.percentiles:
            lock = replace(LockParams.paper(threshold), confidence_percentile=m)
            decoders.append(rule(PAPER, lock, percentile=m))
    return Comparison(bench, "flops_curves", decoders, (summary,), by_step).of_questions(settings)


def by_step(found: Sequence[Outcome]) -> Rows:
    """All curves."""
    return {"flops_curves_by_step": [row for outcome in found for row in steps(outcome)]}


def steps(found: Outcome) -> list[Row]:
    """Shares of rows in each step: of the canvases' own positions, padded as batches of four, masked, and printed."""
    rows = np.array([run.rows for run in found.runs])  # [prompts, steps]
    positions = np.array([run.num_positions for run in found.runs])
    pads = np.concatenate([positions[batch].max() - positions[batch] for batch in batches(len(found.runs))])
    num, num_steps = found.params.max_tokens, rows.shape[1]
    left = num - np.floor(np.arange(num_steps) * num / num_steps)
    curve = _printed(found)
    columns = {
        "step": list(range(1, num_steps + 1)),
        "active_ratio": (rows.sum(0) / positions.sum()).tolist(),
        "paper_active_ratio": ((rows + pads[:, None]).sum(0) / (positions + pads).sum()).tolist(),
        "masked_ratio": (left * len(rows) / positions.sum()).tolist(),
        "published": [None] * num_steps if curve is None
        else np.interp(np.linspace(0, 1, num_steps), np.linspace(0, 1, len(curve)), curve).tolist(),
    }  # fmt: skip
    key = {**found.point, **found.decoder.label}
    return [key | dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def summary(found: Outcome) -> Row:
    """Means of the curves, and the paper's."""
    rows, printed = steps(found), _printed(found)
    own, padded = ([row[name] for row in rows] for name in ("active_ratio", "paper_active_ratio"))
    return {
        "active_ratio": float(np.mean(own)), "last_active_ratio": own[-1],
        "half_step": next((step / len(own) for step, ratio in enumerate(own) if ratio <= 0.5), None),
        "paper_active_ratio": float(np.mean(padded)), "last_paper_active_ratio": padded[-1],
        "published_active_ratio": None if printed is None else float(np.mean(printed)),
        "published_last": None if printed is None else printed[-1],
    }  # fmt: skip


def _printed(found: Outcome) -> list[float] | None:
    """The paper's curve for this setting."""
    params, label = found.params, found.decoder.label
    if label["percentile"] is None or params.steps != params.max_tokens:
        return None
    return published.active_ratio(label["percentile"], params.max_tokens, label["threshold"])


TABLE = Study(
    number="1", name="flops_table", title="FLOPs over length and threshold",
    method="Prompts are decoded with as many steps as tokens, fully parallel, at temperature 0, under the permanent "
    "rule (visible for one step, no gate) and the paper's literal rule (gate at m = 20 %, no visibility). Nothing is "
    "timed: FLOPs are counted from the rows each step computed.",
    settings=SETTINGS,
    quick={"lengths": lengths(64), "num_prompts": 6},
    grid=table_grid, finish=self_check,
    tables=(
        Table("flops_table", PAPER_NOTE),
        Table("self_check", "FLOPs without locks of LLaDA-8B per row, counted here and as the paper's Table 2 prints "
              "them: digits are cut, not rounded."),
    ),
    plots=(
        Plot("flops_table", "FLOPs ratio against epsilon, exact and as the paper counts.",
            Panel("flops_table", "threshold", "exact_ratio", "rule", "num_generated", level="masked_floor", log="x"),
            Panel("flops_table", "threshold", "paper_ratio", "rule", "num_generated",
                  published="published_ratio", log="x"),
        ),
    ),
)  # fmt: skip

CURVES = Study(
    number="2", name="flops_curves", title="Active rows step by step",
    method="The runs of experiment 1, with the paper's confidence gate at m = {percentiles} %, and the permanent rule, "
    "which has no gate. Means over prompts of the share of rows each step computes.",
    settings=SETTINGS | {"percentiles": (10, 20, 40)},
    quick={"lengths": lengths(64), "thresholds": (5e-4, 5e-3), "num_prompts": 6},
    grid=curves_grid,
    tables=(
        Table("flops_curves", "Active ratio: active rows / all rows of a step, which is the step's FLOPs ratio "
              "without the head; the paper's counts rows that pad the prompts of each batch of four, which never "
              "lock. Half step: share of the run after which half the rows are active. Published: read off Figure 2, "
              "LLaDA-8B-Instruct."),
        Table("flops_curves_by_step", columns=None),
    ),
    plots=(
        Plot("flops_curves", "Share of rows computed under the paper's rule, padding included, as the paper counts; "
             "and the paper's Figure 2 (LLaDA-8B-Instruct). Colour: epsilon; dash: m.",
            Panel("flops_curves_by_step", "step", "paper_active_ratio published", "threshold percentile",
                  "num_generated", only={"rule": PAPER}),
        ),
    ),
)  # fmt: skip
