"""Experiment 5 of the paper, Table 4: computing a fixed share of the active rows, alone and with locks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from studies import published
from studies.bench import Bench, Length, lengths
from studies.decoders import NO_LOCK, NONE, PAPER, both
from studies.measures import COST_NOTE, QUALITY_NOTE, Outcome, of_texts, paper_cost, quality
from studies.plots import Points, picture
from studies.study import Cell, Plot, Row, Rows, Study, Table, where

# `ActiveShare` takes no more tokens a step.
MAX_QUOTA: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The paper's: k = 0.8 at N_gen = steps = 256."""

    lengths: tuple[Length, ...] = lengths(256)
    threshold: float = 5e-3
    share: float = 0.8
    num_prompts: int = 32


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length."""
    slow = tuple(each for each in settings.lengths if -(-each.num_generated // each.steps) <= MAX_QUOTA)
    for length in settings.lengths:
        if length not in slow:
            bench.leave_out(
                f"N_gen/steps {length}: row selection takes at most {MAX_QUOTA} tokens a step; raise the steps"
            )
    decoders = [
        replace(rule, label={**rule.label, "share": share}, share=share)
        for rule in (NO_LOCK, *both(settings.threshold))
        for share in (None, settings.share)
    ]
    return of_texts(bench, replace(settings, lengths=slow), "selection", decoders, (paper_cost, quality, printed))


def printed(found: Outcome) -> Row:
    """What Table 4 has for this setting."""
    label = found.decoder.label
    names = {(NONE, True): "selection", (PAPER, False): "locking", (PAPER, True): "both"}
    cell = published.TABLE_4.get(names.get((label["rule"], label["share"] is not None), ""))
    return {"published_flops_ratio": cell and cell.flops_ratio, "published_speed_up": cell and cell.speed_up}


def finish(bench: Bench, settings: Settings, rows: Rows) -> Rows:
    """Beside each rule with a share, the share times what the rule alone computes."""
    found = []
    for row in rows["selection"]:
        (alone,) = where(rows["selection"], length=row["length"], rule=row["rule"], share=None)
        found.append(row | {"expected_ratio": row["share"] and row["share"] * alone["exact_ratio"]})
    return {"selection": found}


STUDY: Final = Study(
    number="5",
    name="selection",
    title="Row selection, alone and with locks",
    method="Each step computes the share k = {share} of the active rows, masked and unmasked ones apart: new tokens "
    "first, then those computed longest ago; in the first step all. The paper does not say which rows its selection "
    "takes. Rows left out keep their keys and values. Text continuations of 64-token prompts, epsilon {threshold}. "
    "Nothing is timed.",
    settings=Settings(),
    quick=Settings(lengths=lengths(64), num_prompts=6),
    grid=grid,
    finish=finish,
    tables=(
        Table("selection", f"{COST_NOTE} {QUALITY_NOTE} Expected: k times the rule's ratio. "
              "Published: Table 4, whose FLOPs ratios with selection do not follow from the paper's counting."),
    ),
    plots=(
        Plot("selection", "Exact FLOPs ratio beside the paper's Table 4 (diamonds, LLaDA-8B, padding counted), and "
             "Gen-PPL ratio with its 95 % interval over prompts.", picture(
            Points("selection", "rule share length", "exact_ratio", published="published_flops_ratio"),
            Points("selection", "rule share length", "ppl_ratio", level=1.0, log="x"),
        )),
    ),
)  # fmt: skip
