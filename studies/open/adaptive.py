"""Does an epsilon that changes with the steps left lose less at short outputs than a constant one of equal cost?"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from studies import equal_cost
from studies.bench import WORKED, Bench, Length, common_lengths, lengths
from studies.decoders import NONE, Decoder
from studies.measures import ANSWERED, CONTINUED, QUALITY_NOTE, RIGHT_NOTE, ROWS_NOTE, Comparison
from studies.plots import Panel, Plot
from studies.policies import ByKL, Policy, finite_horizon, masks_left
from studies.study import Cell, Settings, Study, Table
from surelock.params import LockParams

CONSTANT, HORIZON, MASKS_LEFT = "constant", "finite horizon", "masks left"
# Prompt rows lock as all others do, or once step 2 is done.
PROMPT_RULES: Final = {
    "as others": LockParams.permanent(),
    "locks at step 2": LockParams(prompt_lock_step=2, refresh=None),
}


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length of texts, and one for each length of problems."""
    pairs = [(name, {"prompt_rule": prompt}) for prompt in PROMPT_RULES for name in (HORIZON, MASKS_LEFT)]
    # Each schedule against the constant one with the same rule for prompt rows.
    equal = partial(equal_cost.against, table="adaptive", other=CONSTANT, pairs=pairs)
    decoders = _decoders(settings)
    cells = Comparison(bench, "adaptive_texts", decoders, CONTINUED, equal).of_texts(settings)
    for length in settings.lengths:
        num, speed = length.num_generated, -(-length.num_generated // length.steps)
        asked = common_lengths(bench, settings.tasks, settings.num_problems, max_tokens=num, tokens_per_step=speed)
        cells += Comparison(bench, "adaptive_tasks", decoders, ANSWERED, equal).of(asked, length=str(length))
    return cells


def _decoders(settings: Settings) -> list[Decoder]:
    schedules = [
        *((CONSTANT, scale, None) for scale in settings.constants),
        *((HORIZON, scale, finite_horizon(scale)) for scale in settings.horizons),
        *((MASKS_LEFT, scale, masks_left(scale, settings.kappa)) for scale in settings.masks_left),
    ]
    found = [Decoder(label={"schedule": NONE, "prompt_rule": NONE, "scale": None}, policy=Policy)]
    for prompt_rule, lock in PROMPT_RULES.items():
        for name, scale, schedule in schedules:
            # Under a schedule the rule's own epsilon only has to be one that may lock.
            policy = partial(ByKL, replace(lock, kl_threshold=scale), schedule)
            found.append(Decoder(label={"schedule": name, "prompt_rule": prompt_rule, "scale": scale}, policy=policy))
    return found


STUDY = Study(
    name="adaptive", title="Do epsilon schedules lose less at short outputs?",
    method="The permanent rule with epsilon constant, with epsilon_t = scale / (T - t)^2 (finite horizon), and with "
    "epsilon_t = scale min(1, ({kappa} / masks left)^2) (masks left), each over a range of scales, with prompt rows "
    "locking as all others do and with all of them locked after step 2. Schedules are compared where they compute "
    "equally many rows, on straight lines between their settings.",
    settings={
        "num_prompts": 48, "num_problems": 48, "tasks": WORKED, "lengths": lengths(32, 64),
        "constants": (5e-6, 5e-5, 5e-4, 5e-3, 5e-2, 0.5), "horizons": (5e-3, 5e-2, 0.5, 5.0, 50.0, 500.0),
        "masks_left": (5e-5, 5e-4, 5e-3, 5e-2, 0.5, 5.0), "kappa": 8.0,
    },
    quick={
        "num_prompts": 2, "num_problems": 4, "lengths": (Length(32, 8),), "constants": (5e-4, 0.05),
        "horizons": (0.05, 1.0), "masks_left": (5e-3, 0.5),
    },
    grid=grid,
    tables=(
        Table("adaptive", equal_cost.NOTE), Table("adaptive_places", columns=None),
        Table("adaptive_texts", f"{QUALITY_NOTE} {ROWS_NOTE}"), Table("adaptive_tasks", f"{RIGHT_NOTE} {ROWS_NOTE}"),
    ),
    plots=(
        Plot("adaptive", "Quality against the rows computed, a line for each schedule over its scale. Dashed: all "
             "prompt rows locked after step 2. Black line: no lock.",
            Panel("adaptive_texts", "active_ratio", "agreement ppl_ratio", "schedule prompt_rule", "length", NONE),
            Panel("adaptive_tasks", "active_ratio", "accuracy", "schedule prompt_rule", "length", NONE),
        ),
    ),
)  # fmt: skip
