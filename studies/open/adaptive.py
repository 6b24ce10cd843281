"""Does an epsilon that changes with the steps left lose less at short outputs than a constant one of equal cost?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from studies import equal_cost
from studies.bench import Bench, Length, lengths
from studies.decoders import NONE, Decoder
from studies.measures import QUALITY_NOTE, RIGHT_NOTE, ROWS_NOTE, Outcome, of_problems, of_texts, quality, rows_computed
from studies.plots import Panel, picture
from studies.policies import ByKL, Constant, FiniteHorizon, MasksLeft, Policy, Schedule
from studies.study import Cell, Plot, Rows, Study, Table
from studies.workload import WORKED, common_lengths
from surelock.params import LockParams

CONSTANT, HORIZON, MASKS_LEFT = "constant", "finite horizon", "masks left"
# Prompt rows lock as all others do, or once step 2 is done.
PROMPT_RULES: Final = {
    "as others": LockParams.permanent(),
    "locks at step 2": LockParams(prompt_lock_step=2, refresh=None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Texts, problems of each length, and the scales of the three schedules; kappa is of the last one."""

    num_prompts: int = 48
    num_problems: int = 48
    tasks: tuple[str, ...] = WORKED
    lengths: tuple[Length, ...] = lengths(32, 64)
    constants: tuple[float, ...] = (5e-6, 5e-5, 5e-4, 5e-3, 5e-2, 0.5)
    horizons: tuple[float, ...] = (5e-3, 5e-2, 0.5, 5.0, 50.0, 500.0)
    masks_left: tuple[float, ...] = (5e-5, 5e-4, 5e-3, 5e-2, 0.5, 5.0)
    kappa: float = 8.0


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length of texts, and one for each length of problems."""
    decoders = _decoders(settings)
    cells = of_texts(bench, settings, "adaptive_texts", decoders, (quality, rows_computed), _equal)
    for length in settings.lengths:
        num, speed = length.num_generated, -(-length.num_generated // length.steps)
        asked = common_lengths(bench, settings.tasks, settings.num_problems, max_tokens=num, tokens_per_step=speed)
        cells += of_problems(bench, "adaptive_tasks", asked, decoders, _equal, length=str(length))
    return cells


def _decoders(settings: Settings) -> list[Decoder]:
    schedules: list[tuple[str, float, Schedule]] = [
        *((CONSTANT, scale, Constant(scale)) for scale in settings.constants),
        *((HORIZON, scale, FiniteHorizon(scale)) for scale in settings.horizons),
        *((MASKS_LEFT, scale, MasksLeft(scale, settings.kappa)) for scale in settings.masks_left),
    ]
    found = [Decoder(label={"schedule": NONE, "prompt_rule": NONE, "scale": None}, policy=Policy)]
    for prompt_rule, lock in PROMPT_RULES.items():
        for name, scale, schedule in schedules:
            # The rule's own epsilon only has to be one that may lock.
            policy = partial(ByKL, replace(lock, kl_threshold=scale), schedule)
            found.append(Decoder(label={"schedule": name, "prompt_rule": prompt_rule, "scale": scale}, policy=policy))
    return found


def _equal(found: Sequence[Outcome]) -> Rows:
    """Each schedule against the constant one with the same rule for prompt rows."""
    return equal_cost.against(
        "adaptive",
        found,
        CONSTANT,
        [(name, {"prompt_rule": prompt}) for prompt in PROMPT_RULES for name in (HORIZON, MASKS_LEFT)],
    )


def _panel(table: str, y: str) -> Panel:
    return Panel(table, "active_ratio", y, "schedule prompt_rule", "length", NONE)


STUDY: Final = Study(
    number="open",
    name="adaptive",
    title="Do epsilon schedules lose less at short outputs?",
    method="The permanent rule with epsilon constant, with epsilon_t = scale / (T - t)^2 (finite horizon), and with "
    "epsilon_t = scale min(1, ({kappa} / masks left)^2) (masks left), each over a range of scales, with prompt rows "
    "locking as all others do and with all of them locked after step 2. Schedules are compared where they compute "
    "equally many rows, on straight lines between their settings.",
    settings=Settings(),
    quick=Settings(num_prompts=2, num_problems=4, lengths=(Length(32, 8),), constants=(5e-4, 0.05),
                   horizons=(0.05, 1.0), masks_left=(5e-3, 0.5)),
    grid=grid,
    tables=(
        Table("adaptive", equal_cost.NOTE),
        Table("adaptive_places", columns=None),
        Table("adaptive_texts", f"{QUALITY_NOTE} {ROWS_NOTE}"),
        Table("adaptive_tasks", f"{RIGHT_NOTE} {ROWS_NOTE}"),
    ),
    plots=(
        Plot("adaptive", "Quality against the rows computed, a line for each schedule over its scale. Dashed: all "
             "prompt rows locked after step 2. Black line: no lock.",
             picture(_panel("adaptive_texts", "agreement ppl_ratio"), _panel("adaptive_tasks", "accuracy"))),
    ),
)  # fmt: skip
