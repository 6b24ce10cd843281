"""Temperature and random unmasking: does locking still pay where the sampler is noisy?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from studies.bench import Bench, Length, lengths, parse_length
from studies.decoders import NONE, PAPER, PERMANENT, Decoder
from studies.measures import QUALITY_NOTE, RIGHT_NOTE, ROWS_NOTE, Comparison, quality, right, rows_computed
from studies.plots import Panel, picture
from studies.study import Cell, Plot, Row, Study, Table
from studies.workload import TRAINED, Case, continuations, problems
from surelock.params import LockParams, Unmasking


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Temperatures, orders of unmasking, lengths; epsilon of both rules; kinds of problem and how many of each."""

    temperatures: tuple[float, ...] = (0, 0.3, 0.7, 1.0)
    unmasking: tuple[Unmasking, ...] = ("low_confidence", "random")
    lengths: tuple[Length, ...] = lengths(64)
    num_prompts: int = 96
    threshold: float = LockParams.permanent().kl_threshold
    tasks: tuple[str, ...] = TRAINED
    num_problems: int = 20


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length, order and temperature of texts, and for each order and temperature of problems."""
    texts = bench.texts(settings.num_prompts)
    fits = bench.fitting(settings.lengths, [text.canvas for text in texts])
    asked = problems(bench, settings.tasks, num_per_task=settings.num_problems)
    places = [{"unmasking": order, "temperature": t} for order, t in product(settings.unmasking, settings.temperatures)]
    rules = [
        Decoder(label={"rule": NONE}),
        Decoder(label={"rule": PERMANENT}, lock=LockParams.permanent(settings.threshold)),
        Decoder(label={"rule": PAPER}, lock=LockParams.paper(settings.threshold)),
    ]
    other = Decoder(label={"rule": "no lock, other seed"}, other_seed=True)
    of_texts = Comparison(
        table="temperature",
        points=[{"length": str(length), **place} for length in fits for place in places],
        workload=lambda at: noisy(continuations(texts, parse_length(at["length"])), at, bench.seed),
        decoders=lambda at: [*rules, other] if at["unmasking"] == "random" or at["temperature"] > 0 else rules,
        measures=(quality, rows_computed),
    )
    of_problems = Comparison(
        table="temperature_tasks", points=places, workload=lambda at: noisy(asked, at, bench.seed),
        decoders=lambda at: rules, measures=(right, rows_computed),
    )  # fmt: skip
    return [*of_texts.cells(bench), *of_problems.cells(bench)]


def noisy(cases: Sequence[Case], at: Row, seed: int) -> list[Case]:
    """The cases at a temperature and an order, each with a seed of its own that all decoders share."""
    own = {"unmasking": at["unmasking"], "temperature": at["temperature"]}
    return [replace(case, params=replace(case.params, seed=seed + index, **own)) for index, case in enumerate(cases)]


STUDY: Final = Study(
    number="open",
    name="temperature",
    title="Does locking survive temperature and random unmasking?",
    method="Held-out texts are continued after their first 64 tokens, one token a step, end ids kept; problems are "
    "asked with N_gen fitted to the right answer. Without locks, under the permanent rule and under the paper's. Noise "
    "is a function of seed, step and position, and all runs of a prompt have one seed: a position that is unmasked in "
    "the same step meets the same noise with and without locks, but not if the order changed, so agreement falls with "
    "temperature for that reason too. What another seed does to the run without locks stands beside it; where "
    "agreement is no higher than that, it says nothing about locks.",
    settings=Settings(),
    quick=Settings(temperatures=(0, 0.7), lengths=lengths(16), num_prompts=2, tasks=("count", "unit"), num_problems=1),
    grid=grid,
    tables=(
        Table("temperature", f"{QUALITY_NOTE} {ROWS_NOTE}"), Table("temperature_tasks", f"{RIGHT_NOTE} {ROWS_NOTE}"),
    ),
    plots=(
        Plot("temperature", "Gen-PPL with locks / without (band: 95 % interval over prompts), share of rows computed, "
             "agreement with no lock under the same noise, and right answers, against temperature.", picture(
            Panel("temperature", "temperature", "ppl_ratio active_ratio agreement", "rule", "unmasking", level=1.0),
            Panel("temperature_tasks", "temperature", "accuracy", "rule", "unmasking"),
        )),
    ),
)  # fmt: skip
