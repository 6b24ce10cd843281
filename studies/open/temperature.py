"""Temperature and random unmasking: does locking still pay where the sampler is noisy?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from studies.bench import TRAINED, Bench, Case, continuations, lengths, problems
from studies.decoders import NONE, PAPER, PERMANENT, Decoder
from studies.measures import ANSWERED, CONTINUED, QUALITY_NOTE, RIGHT_NOTE, ROWS_NOTE, Comparison
from studies.plots import Panel, Plot
from studies.study import Cell, Row, Settings, Study, Table
from surelock.params import LockParams


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length, order and temperature of texts, and for each order and temperature of problems."""
    texts = bench.texts(settings.num_prompts)
    fits = bench.fitting(settings.lengths, [text.token_ids for text in texts])
    asked = problems(bench, settings.tasks, num_per_task=settings.num_problems)
    places = [{"unmasking": order, "temperature": t} for order, t in product(settings.unmasking, settings.temperatures)]
    rules = [
        Decoder(label={"rule": NONE}),
        Decoder(label={"rule": PERMANENT}, lock=LockParams.permanent(settings.threshold)),
        Decoder(label={"rule": PAPER}, lock=LockParams.paper(settings.threshold)),
    ]
    other = Decoder(label={"rule": "no lock, other seed"}, other_seed=True)
    cells = []
    for length, place in product(fits, places):
        decoders = [*rules, other] if place["unmasking"] == "random" or place["temperature"] > 0 else rules
        continued = noisy(continuations(texts, length), place, bench.seed)
        cells += Comparison(bench, "temperature", decoders, CONTINUED).of(continued, length=str(length), **place)
    of_problems = Comparison(bench, "temperature_tasks", rules, ANSWERED)
    for place in places:
        cells += of_problems.of(noisy(asked, place, bench.seed), **place)
    return cells


def noisy(cases: Sequence[Case], at: Row, seed: int) -> list[Case]:
    """The cases at a temperature and an order, each with a seed of its own that all decoders share."""
    return [replace(case, params=replace(case.params, seed=seed + index, **at)) for index, case in enumerate(cases)]


STUDY = Study(
    name="temperature", title="Does locking survive temperature and random unmasking?",
    method="Held-out texts are continued after their first 64 tokens, one token a step, end ids kept; problems are "
    "asked with N_gen fitted to the right answer. Without locks, under the permanent rule and under the paper's. Noise "
    "is a function of seed, step and position, and all runs of a prompt have one seed: a position that is unmasked in "
    "the same step meets the same noise with and without locks, but not if the order changed, so agreement falls with "
    "temperature for that reason too. What another seed does to the run without locks stands beside it.",
    settings={
        "temperatures": (0, 0.3, 0.7, 1.0), "unmasking": ("low_confidence", "random"), "lengths": lengths(64),
        "num_prompts": 96, "threshold": LockParams.permanent().kl_threshold, "tasks": TRAINED, "num_problems": 20,
    },
    quick={
        "temperatures": (0, 0.7), "lengths": lengths(16), "num_prompts": 2, "tasks": ("count", "unit"),
        "num_problems": 1,
    },
    grid=grid,
    tables=(
        Table("temperature", f"{QUALITY_NOTE} {ROWS_NOTE}"), Table("temperature_tasks", f"{RIGHT_NOTE} {ROWS_NOTE}"),
    ),
    plots=(
        Plot("temperature", "Gen-PPL with locks / without (band: 95 % interval over prompts), share of rows computed, "
             "agreement with no lock under the same noise, and right answers, against temperature.",
            Panel("temperature", "temperature", "ppl_ratio active_ratio agreement", "rule", "unmasking", level=1.0),
            Panel("temperature_tasks", "temperature", "accuracy", "rule", "unmasking"),
        ),
    ),
)  # fmt: skip
