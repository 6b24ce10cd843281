"""What a run cost, in the paper's way of counting and in ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from surelock.experiments.lengths import Length
from surelock.experiments.result import Column
from surelock.flops import exact_flops, paper_batch

if TYPE_CHECKING:
    from surelock.models.config import ModelConfig
    from surelock.output import RequestOutput

# The paper's batch size.
BATCH_SIZE: Final = 4

COST_COLUMNS: Final = (
    Column("active_ratio", "r-bar", "{:.3f}"),
    Column("masked_floor", "masked floor", "{:.3f}"),
    Column("exact_base"),
    Column("exact_locked"),
    Column("exact_ratio", "exact", "{:.3f}"),
    Column("full_ratio", "full", "{:.3f}"),
    Column("paper_active_ratio"),
    Column("paper_base"),
    Column("paper_locked"),
    Column("paper_ratio", "paper mode", "{:.3f}"),
)
# Where all prompts are of one length nothing pads, and paper mode says what exact does.
SHORT_COST_COLUMNS: Final = tuple(
    replace(column, heading=None) if column.name in ("active_ratio", "paper_ratio") else column
    for column in COST_COLUMNS
)
COST_NOTE: Final = (
    "r-bar: rows computed / (steps x N), no padding. FLOPs ratios, with locks / without: exact counts what is "
    "computed, full adds the LM head and both head rows of each KL test, paper mode counts padding to the longest "
    "prompt of each batch of 4 as rows that never lock and no head (paper, section 2.4). Masked floor: the least exact "
    "ratio any locking can reach, since masked rows must be computed."
)
SHORT_COST_NOTE: Final = (
    "FLOPs ratios, with locks / without: exact counts what is computed, full adds the LM head and both head rows of "
    "each KL test. Masked floor: the least exact ratio any locking can reach, since masked rows must be computed."
)


def costs(config: ModelConfig, outputs: Sequence[RequestOutput], length: Length) -> dict[str, float]:
    """Values of `COST_COLUMNS` for one run, its prompts in batches of four as they come.

    `exact` and `full` ratios are of sums over requests; those of paper mode are weighted by each batch's rows, as the
    paper's tables are.
    """
    prompts = [len(output.canvas_token_ids) - length.num_generated for output in outputs]
    rows = sum(sum(output.stats.active_rows) for output in outputs)
    possible = sum(output.stats.steps * len(output.canvas_token_ids) for output in outputs)
    total = {
        (mode, side): sum(output.stats.flops[mode][side] for output in outputs)
        for mode in ("exact", "full")
        for side in ("base", "locked")
    }
    floor = sum(
        length.masked_floor(num)
        * exact_flops(config, (num + length.num_generated) * length.steps, num + length.num_generated)
        for num in prompts
    )
    paper = _paper_mode(config, outputs, prompts, length)
    return {
        "active_ratio": rows / possible,
        "masked_floor": floor / total["exact", "base"],
        "exact_base": total["exact", "base"],
        "exact_locked": total["exact", "locked"],
        "exact_ratio": total["exact", "locked"] / total["exact", "base"],
        "full_ratio": total["full", "locked"] / total["full", "base"],
        "paper_active_ratio": paper["active_ratio"],
        "paper_base": paper["base"],
        "paper_locked": paper["locked"],
        "paper_ratio": paper["locked"] / paper["base"],
    }


def batches(num: int) -> list[slice]:
    """Indices of num prompts in batches of four, the last one perhaps smaller."""
    return [slice(start, min(start + BATCH_SIZE, num)) for start in range(0, num, BATCH_SIZE)]


def _paper_mode(
    config: ModelConfig, outputs: Sequence[RequestOutput], prompts: Sequence[int], length: Length
) -> dict[str, float]:
    weight_of: list[int] = []
    found: list[dict[str, float]] = []
    for batch in batches(len(outputs)):
        lengths = prompts[batch]
        found.append(
            paper_batch(
                config,
                prompt_lengths=lengths,
                num_generated=length.num_generated,
                steps=length.steps,
                active_rows=[output.stats.active_rows for output in outputs[batch]],
            )
        )
        weight_of.append(len(lengths) * (max(lengths) + length.num_generated))
    return {
        name: sum(weight * one[name] for weight, one in zip(weight_of, found, strict=True)) / sum(weight_of)
        for name in ("active_ratio", "base", "locked")
    }
