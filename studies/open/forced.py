"""What locking does to the rows that are still masked: the decisions of a run without locks repeated with locks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product

from studies.bench import NUM_TEXT_TOKENS, Bench, Length, lengths
from studies.forced.measure import measure
from studies.forced.records import tables
from studies.plots import Panel, Plot, Points
from studies.study import Cell, Rows, Settings, Study, Table
from surelock.errors import ParameterError
from surelock.measure.prompt_sets import task_canvases, text_canvases
from surelock.measure.rules import parse_rule
from surelock.params import LockParams


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each rule."""
    prompts, cells = _prompts(bench, settings.num_prompts), []
    for length, name in product(bench.fitting(settings.lengths[:1], prompts), settings.rules):
        lock = parse_rule(name)
        if lock is None:
            raise ParameterError("rules names none, which is what the others are compared with; leave it out")
        cells.append(Cell(f"rule {name}", partial(_rule, bench, prompts, length, name, lock, settings)))
    return cells


def _prompts(bench: Bench, num: int) -> list[list[int]]:
    """Half texts and half problems where the model can be asked any."""
    has_tasks = bench.options.prompts is None and bench.is_chat
    num_texts = (num + 1) // 2 if has_tasks else num
    found = list(text_canvases(bench.llm, num_texts, num_prompt_tokens=NUM_TEXT_TOKENS, path=bench.options.prompts))
    if num > num_texts:
        found += task_canvases(bench.llm, num - num_texts, seed=bench.seed)
    return [[token for token in canvas if token is not None] for canvas in found]


def _rule(
    bench: Bench, prompts: Sequence[Sequence[int]], length: Length, name: str, lock: LockParams, settings: Settings
) -> Rows:
    return tables(name, measure(bench, prompts, length.params, lock, settings))


STUDY = Study(
    name="forced", title="What locking does to the rows that are still masked",
    method="Every prompt is decoded without locks. For each rule a second run with locks repeats every unmasking "
    "decision, position and token, so both read the same canvas in every step and differ by frozen keys and values "
    "alone; the rows that are still masked are compared: KL(no lock || locks) over the full vocabulary, and whether "
    "the proposed token is another one (a flip). Groups of locks are frozen on their own in every step that "
    "{group_every} divides, with everything else fresh; single locks are set free one at a time, and the harm of a "
    "lock is how far the divergence of its step falls. Runs that make their own decisions follow, each beside a "
    "control without locks that is only forced to take the locked run's first different decision.",
    # Rules by name (`surelock.measure.rules`); see `Measurement` for the rest.
    settings={
        "rules": ("permanent", "literal", "paper"), "num_prompts": 64, "lengths": lengths(64), "group_every": 4,
        "num_probes": 3, "max_locks": 64,
    },
    quick={
        "num_prompts": 2, "lengths": lengths(16), "group_every": 8, "num_probes": 1, "max_locks": 16,
    },
    grid=grid,
    tables=(
        Table("forced", "Each rule over all steps and prompts."),
        Table("forced_groups", "Divergence of the masked rows with only one group of the locks frozen: by age at lock "
              "(0: ghosts), the half that drifted less or more, and all locks in one layer only. KL per lock with a "
              "95 % bootstrap interval over sequences."),
        Table("forced_effects", "Harm of a single lock: nats by which the divergence of its step falls if it is free."),
        Table("forced_predictors", "Spearman's rank correlation, over single locks, of that harm with what is known."),
        *(Table(f"forced_{name}", columns=None)
          for name in ("steps", "free", "growth", "spread")),
    ),
    plots=(
        Plot("forced", "Divergence of masked rows step by step; of one class of locks frozen alone, and in one layer; "
             "tokens that differ from no lock in runs that make their own decisions (dashed: the control).",
            Panel("forced_steps", "step", "kl_mean", "rule", log="y"),
            Points("forced_groups", "rule group", "kl_per_lock", log="x", only={"axis": "age"}),
            Panel("forced_groups", "group", "kl_mean", "rule", log="y", only={"axis": "layer"}),
            Panel("forced_growth", "steps_since", "share", "rule run"),
            Panel("forced_spread", "distance", "share", "rule run"),
        ),
    ),
)  # fmt: skip
