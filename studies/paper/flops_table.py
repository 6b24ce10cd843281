"""Experiment 1 of the paper, Table 1: FLOPs over N_gen and epsilon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from studies import published
from studies.bench import Bench, Length, Text, lengths
from studies.decoders import PAPER, both
from studies.measures import PAPER_NOTE, Comparison, Outcome, paper_cost
from studies.plots import Panel, picture
from studies.study import Cell, Plot, Row, Rows, Study, Table
from studies.workload import continuations
from surelock.bench.shapes import LLADA_8B
from surelock.flops import paper_batch, truncated


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The paper's."""

    lengths: tuple[Length, ...] = lengths(64, 256, 1024)
    thresholds: tuple[float, ...] = (5e-4, 5e-3, 5e-2)
    num_prompts: int = 32


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length."""
    prompts = [Text("", canvas) for canvas in bench.questions(settings.num_prompts)]
    of = {each.num_generated: each for each in bench.fitting(settings.lengths, [text.canvas for text in prompts])}
    return Comparison(
        table="flops_table",
        points=[{"num_generated": num} for num in of],
        workload=lambda at: continuations(prompts, of[at["num_generated"]]),
        decoders=lambda at: [rule for threshold in settings.thresholds for rule in both(threshold)],
        measures=(paper_cost, printed),
    ).cells(bench)


def printed(found: Outcome) -> Row:
    """What Table 1 has for this setting."""
    params, label = found.cases[0].params, found.decoder.label
    is_papers = label["rule"] == PAPER and params.steps == params.max_tokens
    cell = published.TABLE_1.get((params.max_tokens, label["threshold"])) if is_papers else None
    names = ("active_ratio", "locked", "ratio")
    return {f"published_{name}": None if cell is None else getattr(cell, name) for name in names}


def self_check(bench: Bench, settings: Settings, rows: Rows) -> Rows:
    """The paper's baselines, counted by `paper_batch` on the shape of LLaDA-8B with prompts of 64 tokens."""
    found: list[Row] = []
    for (num, steps), wanted in published.TABLE_2_BASE.items():
        counted = truncated(paper_batch(LLADA_8B, prompt_lengths=[64] * 4, num_generated=num, steps=steps)["base"])
        equal = "yes" if counted == wanted else "no"
        found.append({"length": f"{num}/{steps}", "counted": counted, "published": wanted, "equal": equal})
    return {"self_check": found}


STUDY: Final = Study(
    number="1",
    name="flops_table",
    title="FLOPs over length and threshold",
    method="Prompts are decoded with as many steps as tokens, fully parallel, at temperature 0, under the permanent "
    "rule (visible for one step, no gate) and the paper's literal rule (gate at m = 20 %, no visibility). Nothing is "
    "timed: FLOPs are counted from the rows each step computed.",
    settings=Settings(),
    quick=Settings(lengths=lengths(64), num_prompts=6),
    grid=grid,
    finish=self_check,
    tables=(
        Table("flops_table", PAPER_NOTE),
        Table("self_check", "FLOPs without locks of LLaDA-8B per row, counted here and as the paper's Table 2 prints "
              "them: digits are cut, not rounded."),
    ),
    plots=(
        Plot("flops_table", "FLOPs ratio against epsilon, exact and as the paper counts.", picture(
            Panel("flops_table", "threshold", "exact_ratio", "rule", "num_generated", level="masked_floor", log="x"),
            Panel("flops_table", "threshold", "paper_ratio", "rule", "num_generated",
                  published="published_ratio", log="x"),
        )),
    ),
)  # fmt: skip
