"""Short outputs: which parts of the locking rule cost quality, on a full grid of its settings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from statistics import fmean
from typing import Final

from studies import measures
from studies.bench import TRAINED, Bench, faster, first_of_each, lengths, most_frequent, problems
from studies.decoders import NONE, Decoder
from studies.measures import ANSWERED, CONTINUED, QUALITY_NOTE, RIGHT_NOTE, ROWS_NOTE, Comparison, Outcome
from studies.plots import Panel, Plot
from studies.policies import AfterOneStep, Policy, Refreshed
from studies.study import Cell, Row, Rows, Settings, Study, Table
from surelock.measure.statistics import paired_difference
from surelock.params import LockParams

LOCK, CACHE = "lock", "delayed cache"
CACHE_NOTE: Final = (
    "Delayed cache: every row that holds a token is kept after one forward with it, all refreshed at times; "
    "against a run without locks in its own batch, whose sums round otherwise; problems of the most frequent sizes."
)
BEFORE: Final = LockParams.permanent()
CHANGES: Final = {
    "one more visible step": LockParams(min_visible_steps=2, refresh=None),
    "a tenth of epsilon": LockParams.permanent(BEFORE.kl_threshold / 10),
    "both": LockParams(kl_threshold=BEFORE.kl_threshold / 10, min_visible_steps=2, refresh=None),
}


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """For texts and problems a cell for each length or number of tokens a step, and one of the delayed cache."""
    rules = [
        LockParams(kl_threshold=threshold, confidence_percentile=percentile, min_visible_steps=visible, refresh=None)
        for visible, percentile, threshold in product(settings.min_visible, settings.percentiles, settings.thresholds)
    ]
    close = [each for each in rules if each.confidence_percentile is None and each.min_visible_steps]
    asked = problems(bench, settings.tasks, num_per_task=max(settings.num_problems, settings.num_close))
    few, frequent = first_of_each(asked, settings.num_problems), most_frequent(asked, settings.num_cache_shapes)
    whole, near = ([Decoder(label=_label(lock), lock=lock) for lock in (None, *own)] for own in (rules, close))
    near.append(Decoder(label=_label(LockParams.paper()), lock=LockParams.paper()))
    # In one batch with a run without locks of its own, since half-precision sums depend on the shape of a batch.
    kept = partial(Refreshed, AfterOneStep, settings.period)
    cache = [Decoder(policy=Policy, beside=True), Decoder(label=_label(None) | {"rule": CACHE}, policy=kept)]
    columns, first = (*CONTINUED, _floor), settings.tokens_per_step[0]
    cells = Comparison(bench, "short_outputs_text", whole, columns).of_texts(settings)
    cells += Comparison(bench, "short_outputs_text", cache, columns).of_texts(settings, decoder=CACHE)
    of_near = Comparison(bench, "short_outputs", near, ANSWERED, _kinds)
    cells += of_near.of([faster(case, first) for case in asked], tokens_per_step=first)
    of_whole, of_cache = (Comparison(bench, "short_outputs_grid", own, ANSWERED) for own in (whole, cache))
    for num in settings.tokens_per_step:
        cells += of_whole.of([faster(case, num) for case in few], tokens_per_step=num)
        cells += of_cache.of([faster(case, num) for case in frequent], tokens_per_step=num, decoder=CACHE)
    return cells


def _label(lock: LockParams | None) -> Row:
    if lock is None:
        return {"rule": NONE, "min_visible": None, "percentile": None, "threshold": None}
    numbers = {"percentile": lock.confidence_percentile, "threshold": lock.kl_threshold}
    return {"rule": LOCK, "min_visible": lock.min_visible_steps, **numbers}


def _floor(found: Outcome) -> Row:
    return {"masked_floor": fmean(found.floors())}


def _kinds(found: Sequence[Outcome]) -> Rows:
    """Accuracy by kind of problem; and the permanent rule with one more visible step, a tenth of epsilon, and both."""
    tasks = [case.problem.task for case in found[0].cases if case.problem is not None]
    right = [measures.answers(each.cases, each.runs) for each in found]
    kinds: list[Row] = []
    for each, own in zip(found, right, strict=True):
        for task in dict.fromkeys(tasks):
            share = fmean(ok for name, ok in zip(tasks, own, strict=True) if name == task)
            kinds.append({"task": task, **each.decoder.label, "accuracy": share})
    place = {each.decoder.lock: index for index, each in enumerate(found)}
    changes: list[Row] = []
    for change, lock in CHANGES.items():
        if BEFORE in place and lock in place:
            before, after = place[BEFORE], place[lock]
            gain = paired_difference(right[after], right[before], seed=found[0].bench.seed)
            rows = {
                f"rows_{name}": measures.rows_computed(found[index])["active_ratio"]
                for name, index in (("before", before), ("after", after))
            }
            changes.append({"change": change, **measures.with_interval("difference", gain), **rows})
    return {"short_outputs_kinds": kinds, "short_outputs_changes": changes}


STUDY = Study(
    name="short_outputs", title="Does waiting for visible rows remove the loss on short outputs?",
    method="Every rule of a grid: min_visible_steps (forwards with its own token a row needs before it may lock; 0 is "
    "the paper's), confidence gate, epsilon. Held-out texts are continued after their first 64 tokens, end ids kept; "
    "problems are asked through the chat template with N_gen fitted to the right answer. Temperature 0, one block. "
    "Beside them a baseline that measures nothing: every row that holds a token is kept after one forward with it, "
    "and all are computed anew in every step that {period} divides.",
    # No percentile is no gate. num_problems are of each kind, for every rule; num_close, at the first of
    # tokens_per_step, for the rules with visible steps and no gate and the paper's. The delayed cache is refreshed
    # every period steps and answers the problems of the num_cache_shapes most frequent sizes.
    settings={
        "min_visible": (0, 1, 2, 3), "percentiles": (None, 20), "thresholds": (5e-5, 5e-4, 5e-3),
        "lengths": lengths(32, (32, 16), (32, 8), 64, (64, 32), (64, 16), 128, (128, 64), (128, 32)),
        "num_prompts": 32, "tokens_per_step": (1, 2, 4), "tasks": TRAINED, "num_problems": 8, "num_close": 72,
        "period": 8, "num_cache_shapes": 8,
    },
    quick={
        "min_visible": (0, 1, 2), "thresholds": (5e-4,), "lengths": lengths(24, (24, 6)), "num_prompts": 2,
        "tokens_per_step": (1,), "tasks": ("unit",), "num_problems": 1, "num_close": 2, "num_cache_shapes": 1,
    },
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
             "visible steps, dotted: masked floor.",
            Panel("short_outputs", "active_ratio", "accuracy", "min_visible", joined=False),
            Panel("short_outputs_text", "active_ratio", "ppl_ratio", "min_visible", "length", level=1.0, joined=False),
        ),
    ),
)  # fmt: skip
