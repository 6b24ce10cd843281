"""Short outputs: which parts of the locking rule cost quality, on a full grid of its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import fmean
from typing import Final

from studies.bench import Bench, Length, lengths
from studies.decoders import NONE, Decoder
from studies.measures import (
    QUALITY_NOTE,
    RIGHT_NOTE,
    ROWS_NOTE,
    Outcome,
    answers,
    of_problems,
    of_texts,
    quality,
    rows_computed,
)
from studies.plots import Panel, picture
from studies.policies import AfterOneStep, Policy, Refreshed
from studies.study import Cell, Plot, Row, Rows, Study, Table
from studies.workload import TRAINED, faster, first_of_each, most_frequent, problems
from surelock.measure.statistics import paired_difference
from surelock.params import LockParams

LOCK, CACHE = "lock", "delayed cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The grid of rules (no percentile is no gate), and what it is measured on.

    Attributes:
        num_problems, num_close: of each kind, for every rule; and, at the first of tokens_per_step, for the rules with
            visible steps and no gate and the paper's.
        period, num_cache_shapes: of the delayed cache: steps between two refreshes; and of how many canvas shapes,
            the most frequent ones, it answers the problems.
    """

    min_visible: tuple[int, ...] = (0, 1, 2, 3)
    percentiles: tuple[float | None, ...] = (None, 20)
    thresholds: tuple[float, ...] = (5e-5, 5e-4, 5e-3)
    lengths: tuple[Length, ...] = lengths(32, (32, 16), (32, 8), 64, (64, 32), (64, 16), 128, (128, 64), (128, 32))
    num_prompts: int = 32
    tokens_per_step: tuple[int, ...] = (1, 2, 4)
    tasks: tuple[str, ...] = TRAINED
    num_problems: int = 8
    num_close: int = 72
    period: int = 8
    num_cache_shapes: int = 8


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """For texts and problems a cell for each length or number of tokens a step, and one of the delayed cache."""
    rules = [
        LockParams(kl_threshold=threshold, confidence_percentile=percentile, min_visible_steps=visible, refresh=None)
        for visible, percentile, threshold in product(settings.min_visible, settings.percentiles, settings.thresholds)
    ]
    close = [
        *(each for each in rules if each.confidence_percentile is None and each.min_visible_steps),
        LockParams.paper(),
    ]
    asked = problems(bench, settings.tasks, num_per_task=max(settings.num_problems, settings.num_close))
    few, frequent = first_of_each(asked, settings.num_problems), most_frequent(asked, settings.num_cache_shapes)
    whole, near = [_lock(None), *map(_lock, rules)], [_lock(None), *map(_lock, close)]
    # In one batch with a run without locks of its own, since half-precision sums depend on the shape of a batch.
    label = _label(None) | {"rule": CACHE}
    cache = [Decoder(policy=Policy, beside=True), Decoder(label=label, policy=partial(_cache, settings.period))]
    table, first, measures = "short_outputs_grid", settings.tokens_per_step[0], (quality, rows_computed, _floor)
    cells = of_texts(bench, settings, "short_outputs_text", whole, measures)
    cells += of_texts(bench, settings, "short_outputs_text", cache, measures, decoder=CACHE)
    cells += of_problems(
        bench, "short_outputs", [faster(case, first) for case in asked], near, _kinds, tokens_per_step=first
    )
    for num in settings.tokens_per_step:
        cells += of_problems(bench, table, [faster(case, num) for case in few], whole, tokens_per_step=num)
        own = [faster(case, num) for case in frequent]
        cells += of_problems(bench, table, own, cache, tokens_per_step=num, decoder=CACHE)
    return cells


def _lock(lock: LockParams | None) -> Decoder:
    return Decoder(label=_label(lock), lock=lock)


def _label(lock: LockParams | None) -> Row:
    if lock is None:
        return {"rule": NONE, "min_visible": None, "percentile": None, "threshold": None}
    numbers = (lock.min_visible_steps, lock.confidence_percentile, lock.kl_threshold)
    return {"rule": LOCK, **dict(zip(("min_visible", "percentile", "threshold"), numbers, strict=True))}


def _cache(period: int) -> Policy:
    return Refreshed(AfterOneStep(), period)


def _floor(found: Outcome) -> Row:
    num = found.cases[0].params.max_tokens
    return {"masked_floor": fmean(num * (run.num_steps + 1) / (2 * run.possible) for run in found.runs)}


def _kinds(found: Sequence[Outcome]) -> Rows:
    """Accuracy by kind of problem; and the permanent rule with one more visible step, a tenth of epsilon, and both."""
    kinds: list[Row] = []
    tasks = [case.problem.task for case in found[0].cases if case.problem is not None]
    right = {str(each.decoder.label): answers(each.cases, each.runs) for each in found}
    rows = {str(each.decoder.label): rows_computed(each)["active_ratio"] for each in found}
    for each in found:
        own = list(zip(tasks, right[str(each.decoder.label)], strict=True))
        for task in dict.fromkeys(tasks):
            share = fmean(ok for name, ok in own if name == task)
            kinds.append({"task": task, **each.decoder.label, "accuracy": share})
    changes: list[Row] = []
    before, tenth = str(_label(LockParams.permanent())), LockParams.permanent().kl_threshold / 10
    for change, lock in {
        "one more visible step": LockParams(min_visible_steps=2, refresh=None),
        "a tenth of epsilon": LockParams.permanent(tenth),
        "both": LockParams(kl_threshold=tenth, min_visible_steps=2, refresh=None),
    }.items():  # fmt: skip
        after = str(_label(lock))
        if before in right and after in right:
            gain = paired_difference(right[after], right[before], seed=found[0].bench.seed)
            ends = {"difference": gain.value, "difference_low": gain.low, "difference_high": gain.high}
            changes.append({"change": change, **ends, "rows_before": rows[before], "rows_after": rows[after]})
    return {"short_outputs_kinds": kinds, "short_outputs_changes": changes}


CACHE_NOTE: Final = (
    "Delayed cache: every row that holds a token is kept after one forward with it, all refreshed at times; "
    "against a run without locks in its own batch, whose sums round otherwise; problems of the most frequent shapes."
)

STUDY: Final = Study(
    number="open",
    name="short_outputs",
    title="Does waiting for visible rows remove the loss on short outputs?",
    method="Every rule of a grid: min_visible_steps (forwards with its own token a row needs before it may lock; 0 is "
    "the paper's), confidence gate, epsilon. Held-out texts are continued after their first 64 tokens, end ids kept; "
    "problems are asked through the chat template with N_gen fitted to the right answer. Temperature 0, one block. "
    "Beside them a baseline that measures nothing: every row that holds a token is kept after one forward with it, "
    "and all are computed anew in every step that {period} divides.",
    settings=Settings(),
    quick=Settings(min_visible=(0, 1, 2), thresholds=(5e-4,), lengths=lengths(24, (24, 6)), num_prompts=2,
                   tokens_per_step=(1,), tasks=("unit",), num_problems=1, num_close=2, num_cache_shapes=1),
    grid=grid,
    tables=(
        Table("short_outputs", f"{RIGHT_NOTE} {ROWS_NOTE}"),
        Table("short_outputs_changes", "The permanent rule changed, problem by problem; 95 % bootstrap intervals."),
        Table("short_outputs_kinds", "Share of right answers by kind of problem."),
        Table("short_outputs_grid", f"{RIGHT_NOTE} {CACHE_NOTE} {ROWS_NOTE}"),
        Table("short_outputs_text", f"{QUALITY_NOTE} {CACHE_NOTE} {ROWS_NOTE}"),
    ),
    plots=(
        Plot("short_outputs", "Right answers and Gen-PPL against the rows computed, a point for each rule; colour: "
             "visible steps, dotted: masked floor.", picture(
            Panel("short_outputs", "active_ratio", "accuracy", "min_visible", joined=False),
            Panel("short_outputs_text", "active_ratio", "ppl_ratio", "min_visible", "length", level=1.0, joined=False),
        )),
    ),
)  # fmt: skip
