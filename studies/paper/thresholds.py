"""Experiment 6, the paper's Table 5: quality and FLOPs over eight orders of magnitude of epsilon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from studies import published
from studies.bench import Bench, Length, lengths
from studies.decoders import PAPER
from studies.measures import COST_NOTE, QUALITY_NOTE, Outcome, of_texts, paper_cost, quality
from studies.paper.quality import rules
from studies.plots import Panel, picture
from studies.study import Cell, Plot, Row, Study, Table
from surelock.params import MIN_HALF_PRECISION_KL


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The paper's epsilons, and those between them."""

    lengths: tuple[Length, ...] = lengths(64)
    thresholds: tuple[float, ...] = (5e-8, 5e-7, 5e-6, 5e-5, 5e-4, 5e-3, 5e-2)
    num_prompts: int = 120


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length."""
    least = 0.0 if bench.llm.dtype == torch.float32 else MIN_HALF_PRECISION_KL
    for each in settings.thresholds:
        if each < least:
            bench.leave_out(f"epsilon {each:g}: below {least:g} half precision measures rounding; use --dtype float32")
    decoders = rules(tuple(each for each in settings.thresholds if each >= least))
    return of_texts(bench, settings, "thresholds", decoders, (quality, paper_cost, printed))


def printed(found: Outcome) -> Row:
    """What Table 5 has for this setting."""
    params, label = found.cases[0].params, found.decoder.label
    is_papers = label["rule"] == PAPER and (params.max_tokens, params.steps) == (64, 64)
    ratios = published.TABLE_5.get(label["threshold"]) if is_papers else None
    return dict(zip(("published_ppl_ratio", "published_flops_ratio"), ratios or (None, None), strict=True))


STUDY: Final = Study(
    number="6",
    name="thresholds",
    title="Thresholds from 5e-8 to 5e-2",
    method="The text continuations of experiment 3 at N_gen/steps {lengths}, with epsilon from 5e-8 to 5e-2, under the "
    "permanent rule and the paper's literal rule.",
    settings=Settings(),
    quick=Settings(thresholds=(5e-8, 5e-6, 5e-4, 5e-3, 5e-2), num_prompts=6),
    grid=grid,
    tables=(Table("thresholds", f"{QUALITY_NOTE} {COST_NOTE}"),),
    plots=(
        Plot("thresholds", "Gen-PPL ratio (band: 95 % interval over prompts), exact FLOPs ratio and agreement against "
             "epsilon. Diamonds: the paper's Table 5 (LLaDA-8B-Base; FLOPs with padding). Dotted: masked "
             "floor.", picture(
            Panel("thresholds", "threshold", "ppl_ratio", "rule", "length", level=1.0,
                  published="published_ppl_ratio", log="x"),
            Panel("thresholds", "threshold", "exact_ratio", "rule", "length", level="masked_floor",
                  published="published_flops_ratio", log="x"),
            Panel("thresholds", "threshold", "agreement", "rule", "length", log="x"),
        )),
    ),
)  # fmt: skip
