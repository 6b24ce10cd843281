"""Do locked rows need to be computed anew now and then, or unlocked where they drifted, and does it pay?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Literal

from studies.bench import WORKED, Bench, Length, common_lengths, lengths
from studies.decoders import NONE, PAPER, PERMANENT, Decoder
from studies.measures import ANSWERED, CONTINUED, QUALITY_NOTE, RIGHT_NOTE, ROWS_NOTE, Comparison
from studies.plots import Panel, Plot
from studies.policies import AfterOneStep, ByKL, Policy, Refreshed, Unlocking, UnlockOnDrift
from studies.study import Cell, Settings, Study, Table
from surelock.params import LockParams

ALWAYS: Final = "lock after one step"
LOCKS: Final = {PERMANENT: LockParams.permanent(), PAPER: LockParams.paper()}


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length of texts, and one for the problems."""
    decoders, speed = _decoders(settings), settings.tokens_per_step
    asked = common_lengths(bench, settings.tasks, settings.num_problems, tokens_per_step=speed)
    cells = Comparison(bench, "refresh", decoders, CONTINUED).of_texts(settings)
    return [*cells, *Comparison(bench, "refresh_tasks", decoders, ANSWERED).of(asked)]


def _decoders(settings: Settings) -> list[Decoder]:
    found = [_decoder(NONE, "never", None, Policy)]
    limits: dict[Literal["kl", "drift"], float] = {"kl": settings.unlock_kl, "drift": settings.unlock_drift}
    numbers = {name: getattr(settings, name) for name in ("min_locked", "cool_down", "strictness")}
    for name in (*LOCKS, ALWAYS):
        start = AfterOneStep if name == ALWAYS else partial(ByKL, LOCKS[name])
        found.append(_decoder(name, "never", None, start))
        for period in settings.periods:
            found.append(_decoder(name, f"refreshed every {period}", period, partial(Refreshed, start, period)))
        for by, threshold in limits.items() if name in LOCKS else ():
            unlocking = Unlocking(by=by, threshold=threshold, period=settings.probe_period, **numbers)
            policy = partial(UnlockOnDrift, LOCKS[name], unlocking)
            found.append(_decoder(name, f"unlocked above {by} {threshold:g}", unlocking.period, policy))
    return found


def _decoder(rule: str, change: str, period: int | None, start: Callable[[], Policy]) -> Decoder:
    return Decoder(label={"rule": rule, "change": change, "period": period}, policy=start)


STUDY = Study(
    name="refresh", title="Do locked rows need a refresh, and does it pay?",
    method="Text continuations at N_gen/steps {lengths} and problems with exact answers under the permanent rule, the "
    "paper's and one that locks every row after one visible step (as dKV-Cache does). Locked rows stay as they are, "
    "or all are computed anew every P steps, or every {probe_period} steps those locked for more than {min_locked} "
    "steps are, and of these the rows that moved since they were last computed are unlocked (above {unlock_kl} nats, "
    "or {unlock_drift} of the keys' or values' norm; under the paper's rule only rows above its confidence gate). An "
    "unlocked row rests {cool_down} steps, then locks again by {strictness} epsilon (paper, appendix M).",
    settings={
        "num_prompts": 64, "num_problems": 120, "tasks": WORKED, "lengths": lengths(64), "tokens_per_step": 1,
        "periods": (4, 8, 16, 32), "unlock_kl": 5e-3, "unlock_drift": 0.1, "probe_period": 8, "min_locked": 4,
        "cool_down": 4, "strictness": 0.5,
    },
    quick={
        "num_prompts": 2, "num_problems": 4, "tasks": ("shop", "unit"), "lengths": (Length(12, 6),),
        "tokens_per_step": 8, "periods": (2,), "probe_period": 2, "min_locked": 1, "cool_down": 1,
    },
    grid=grid,
    tables=(Table("refresh", f"{QUALITY_NOTE} {ROWS_NOTE}"), Table("refresh_tasks", f"{RIGHT_NOTE} {ROWS_NOTE}")),
    plots=(
        Plot("refresh", "Quality against the rows computed, a point for each way to treat what is locked.",
            Panel("refresh", "active_ratio", "ppl_ratio agreement", "rule", base=NONE, joined=False),
            Panel("refresh_tasks", "active_ratio", "accuracy", "rule", base=NONE, joined=False),
        ),
    ),
)  # fmt: skip
