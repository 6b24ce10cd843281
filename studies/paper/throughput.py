"""Experiment 4 of the paper, Figure 3: tokens per second against batch size and length, of runs and of single steps.

`surelock bench latency --shape llada-8b` measures the same on the shape of a large model, without weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np

from studies import published
from studies.bench import Bench, Length, lengths
from studies.decoders import NONE, PAPER, PERMANENT
from studies.plots import Panel, picture
from studies.study import Cell, Plot, Row, Rows, Study, Table
from studies.timing import Timed, in_turn, one_after_another
from surelock.bench.driving import Job
from surelock.params import LockParams, SamplingParams

# Points of a curve of step-TPS; each is a mean over its part of the run.
NUM_PARTS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The paper's."""

    lengths: tuple[Length, ...] = lengths(64, 256, 1024)
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    threshold: float = 5e-3


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length and batch size."""
    sizes, threshold = sorted(set(settings.batch_sizes)), settings.threshold
    prompts = [list(text.canvas) for text in bench.texts(sizes[-1])]
    rules = {NONE: None, PERMANENT: LockParams.permanent(threshold), PAPER: LockParams.paper(threshold)}

    def measure(length: Length, size: int) -> Rows:
        jobs = {
            name: [
                Job(prompt, SamplingParams(max_tokens=length.num_generated, steps=length.steps, lock=lock))
                for prompt in prompts[:size]
            ]
            for name, lock in rules.items()
        }
        timing = in_turn if bench.llm.device.type == "cpu" else one_after_another
        found, drift = timing(bench.llm, jobs, max(map(len, prompts)) + length.num_generated)
        return timed_rows(found, length, size, drift)

    return [
        Cell(
            name=f"N_gen {length.num_generated}, batch {size}",
            measure=lambda length=length, size=size: measure(length, size),  # type: ignore[misc]
            weight=size * length.steps * length.num_generated,
        )
        for length, size in product(bench.fitting(settings.lengths, prompts), sizes)
    ]


def timed_rows(found: Mapping[str, Timed], length: Length, size: int, drift: float | None) -> Rows:
    """A row for each rule, and one for each part of its run."""
    rows, steps = [], []
    base, tokens = found[NONE], size * length.num_generated
    for name, timed in found.items():
        head: Row = {"num_generated": length.num_generated, "batch_size": size, "rule": name}
        rows.append(
            head
            | {
                "seconds": timed.seconds,
                "tokens_per_s": tokens / timed.seconds,
                "speed_up": base.seconds / timed.seconds,
                "drift": drift if name == NONE else None,
                "active_ratio": timed.active_ratio,
                "possible": 1 / timed.active_ratio,
                "published": published.FIGURE_3A.get((length.num_generated, size)) if name == PAPER else None,
            }
        )
        for (share, seconds), (_, unlocked) in zip(_parts(timed.steps), _parts(base.steps), strict=True):
            rate = tokens / length.steps / seconds
            steps.append(head | {"share": share, "tokens_per_s": rate, "ratio": unlocked / seconds})
    return {"throughput": rows, "throughput_by_step": steps}


def _parts(seconds: Sequence[float]) -> list[tuple[float, float]]:
    """Middle of each part of the run, as a share of it, and its mean seconds per step."""
    parts = np.array_split(np.array(seconds), min(NUM_PARTS, len(seconds)))
    ends = np.cumsum([len(part) for part in parts]) / len(seconds)
    return [
        (float(end) - len(part) / len(seconds) / 2, float(part.mean())) for end, part in zip(ends, parts, strict=True)
    ]


STUDY: Final = Study(
    number="4",
    name="throughput",
    title="Tokens per second",
    method="Whole runs of the first texts' 64-token prompts, decoded together without locks, under the permanent rule "
    "and under the paper's (epsilon {threshold}). On a CPU the three advance in turn, a step at a time, so that "
    "whatever else the machine does meets all of them; on a GPU they run one after another after a warm-up, and "
    "without locks once more. Tokens per second: generated tokens / seconds, until the device is done.",
    settings=Settings(),
    quick=Settings(lengths=lengths(64), batch_sizes=(1, 2, 4)),
    grid=grid,
    tables=(
        Table("throughput", "Possible: the ratio there would be if a step cost as much as its rows. Drift: the second "
              "run without locks over the first; a ratio nearer to 1 than that says nothing. Published: Figure 3a, "
              "LLaDA-8B, epsilon 5e-3, against its own code without locks."),
        Table("throughput_by_step", columns=None),
    ),
    plots=(
        Plot("throughput_runs", "Tokens per second of whole runs. Diamonds: the paper's Figure 3a (LLaDA-8B).", picture(
            Panel("throughput", "batch_size", "speed_up", "rule", "num_generated", NONE, published="published", log="2")
        )),
        Plot("throughput_steps", "Tokens per second of a step over the run, at each batch size.", picture(
            Panel("throughput_by_step", "share", "ratio", "rule batch_size", "num_generated", NONE)
        )),
    ),
)  # fmt: skip
