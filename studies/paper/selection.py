"""Experiment 5 of the paper, Table 4: computing a fixed share of the active rows, alone and with locks."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from studies import published
from studies.bench import Bench, lengths
from studies.decoders import NO_LOCK, NONE, PAPER, both
from studies.measures import COST_NOTE, QUALITY_NOTE, Comparison, Outcome, paper_cost, quality
from studies.plots import Plot, Points
from studies.study import Cell, Row, Rows, Settings, Study, Table, where

# `ActiveShare` takes no more tokens a step.
MAX_QUOTA: Final = 4


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length."""
    slow = tuple(each for each in settings.lengths if each.num_generated <= MAX_QUOTA * each.steps)
    for length in settings.lengths:
        if length not in slow:
            told = f"row selection takes at most {MAX_QUOTA} tokens a step; raise the steps"
            bench.leave_out(f"N_gen/steps {length}: {told}")
    decoders = [
        replace(rule, label={**rule.label, "share": share}, share=share)
        for rule in (NO_LOCK, *both(settings.threshold))
        for share in (None, settings.share)
    ]
    settings = Settings(**vars(settings) | {"lengths": slow})
    return Comparison(bench, "selection", decoders, (paper_cost, quality, printed)).of_texts(settings)


def printed(found: Outcome) -> Row:
    """What Table 4 has for this setting."""
    label = found.decoder.label
    names = {(NONE, True): "selection", (PAPER, False): "locking", (PAPER, True): "both"}
    name = names.get((label["rule"], label["share"] is not None), "")
    return published.columns(published.COMBINATION, published.TABLE_4.get(name))


def finish(bench: Bench, settings: Settings, rows: Rows) -> Rows:
    """Beside each rule with a share, the share times what the rule alone computes."""
    found = []
    for row in rows["selection"]:
        (alone,) = where(rows["selection"], length=row["length"], rule=row["rule"], share=None)
        found.append(row | {"expected_ratio": row["share"] and row["share"] * alone["exact_ratio"]})
    return {"selection": found}


STUDY = Study(
    number="5", name="selection", title="Row selection, alone and with locks",
    method="Each step computes the share k = {share} of the active rows, masked and unmasked ones apart: new tokens "
    "first, then those computed longest ago; in the first step all. The paper does not say which rows its selection "
    "takes. Rows left out keep their keys and values. Text continuations of 64-token prompts, epsilon {threshold}. "
    "Nothing is timed.",
    # The paper's: k = 0.8 at N_gen = steps = 256.
    settings={"lengths": lengths(256), "threshold": 5e-3, "share": 0.8, "num_prompts": 32},
    quick={"lengths": lengths(64), "num_prompts": 6},
    grid=grid, finish=finish,
    tables=(
        Table("selection", f"{COST_NOTE} {QUALITY_NOTE} Expected: k times the rule's ratio. "
              "Published: Table 4, whose FLOPs ratios with selection do not follow from the paper's counting."),
    ),
    plots=(
        Plot("selection", "Exact FLOPs ratio beside the paper's Table 4 (diamonds, LLaDA-8B, padding counted), and "
             "Gen-PPL ratio with its 95 % interval over prompts.",
            Points("selection", "rule share length", "exact_ratio", published="published_flops_ratio"),
            Points("selection", "rule share length", "ppl_ratio", level=1.0, log="x"),
        ),
    ),
)  # fmt: skip
