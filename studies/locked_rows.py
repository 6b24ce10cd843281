"""What became of each position that a rule would lock: its constants of Theorem 1, and how far its posterior went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from surelock.measure.trace import Integers, Trace

Reals = NDArray[np.float64]

# Divergences below this are rounding, in float32.
FLOOR: Final = 1e-12
# Steps after the lock that a regression needs.
MIN_STEPS: Final = 3
PART_ROWS: Final = 4096


@dataclass(frozen=True, slots=True)
class LockedRows:
    """What became of each position that would have been locked, one number each [R].

    Attributes:
        is_prompt, kl, uncertainty: of the position, D and u at the lock, step t*.
        tv, log_gap, token_gap, flipped: how far p_t* is from p_T, as in `Trace`.
        rho: exp of the slope of log D_s over s >= t*; NaN with fewer than 3 steps left.
        rho_needed: max D_s / D_(s-1), the least rho with which A2 holds here. `rising`: share of steps above 1.
        tail: S = sum_(s>t*) sqrt(D_(s-1) / D_t*).
        tv_sum: sum_(s>t*) sqrt(D_s / 2), which bounds tv by Pinsker and the triangle inequality alone.
        lagged: max_(s>t*) ||dz_s|| / sqrt(D_(s-1)), the least L with which A3 holds here. `unlagged`: over D_s.
    """

    is_prompt: NDArray[np.bool_]
    kl: Reals
    uncertainty: Reals
    tv: Reals
    log_gap: Reals
    token_gap: Reals
    flipped: NDArray[np.bool_]
    rho: Reals
    rho_needed: Reals
    rising: Reals
    tail: Reals
    tv_sum: Reals
    lagged: Reals
    unlagged: Reals

    def __len__(self) -> int:
        return len(self.kl)

    def where(self, mask: NDArray[np.bool_]) -> LockedRows:
        """Some of them."""
        return LockedRows(*(getattr(self, field.name)[mask] for field in fields(self)))


def locked_rows(run: Trace, locked_at: Integers, *, floor: float = FLOOR) -> LockedRows:
    """Every position with locked_at > 0 [B, N]; divergences are taken as at least `floor`."""
    canvas, position = np.nonzero(locked_at)
    parts = [
        _of_part(run, canvas[start : start + PART_ROWS], position[start : start + PART_ROWS], locked_at, floor)
        for start in range(0, max(len(canvas), 1), PART_ROWS)
    ]
    return joined(parts)


def joined(parts: Sequence[LockedRows]) -> LockedRows:
    """The rows of several runs."""
    return LockedRows(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(LockedRows)))


def _of_part(
    run: Trace, canvas: NDArray[np.int64], position: NDArray[np.int64], locked_at: Integers, floor: float
) -> LockedRows:
    index = locked_at[canvas, position].astype(np.int64) - 1

    def at_lock(values: NDArray[Any]) -> Reals:
        return values[index, canvas, position].astype(np.float64)

    # [T, R]
    kl = np.maximum(run.kl[:, canvas, position].astype(np.float64), floor)
    number = np.arange(run.num_steps)[:, None]
    after, since = number > index, number >= index
    num_after = after.sum(0)
    moved = np.where(after, np.nan_to_num(run.logit_step[:, canvas, position]), 0.0)
    # The first row is never read: nothing is after a lock there.
    before = np.vstack((np.ones_like(kl[:1]), kl[:-1]))
    # +inf on the first step, where only a rule without divergence locks.
    own = kl[index, np.arange(len(index))]
    with np.errstate(invalid="ignore"):
        ratio, decay = kl / before, np.sqrt(before / own)
    ratio = np.where(after, ratio, 0.0)
    return LockedRows(
        is_prompt=run.committed_at[canvas, position] == 0, kl=own, uncertainty=at_lock(run.uncertainty),
        tv=at_lock(run.tv), log_gap=at_lock(run.log_gap), token_gap=at_lock(run.token_gap),
        flipped=run.flipped[index, canvas, position], rho=fitted_rho(kl, since), rho_needed=ratio.max(0),
        rising=(ratio > 1.0).sum(0) / np.maximum(num_after, 1), tail=np.where(after, decay, 0.0).sum(0),
        tv_sum=np.where(after, np.sqrt(kl / 2), 0.0).sum(0), lagged=(moved / np.sqrt(before)).max(0),
        unlagged=(moved / np.sqrt(kl)).max(0),
    )  # fmt: skip


def fitted_rho(kl: Reals, where: NDArray[np.bool_]) -> Reals:
    """exp of the least-squares slope [R] of log kl [T, R] over the steps marked."""
    x = np.arange(len(kl), dtype=np.float64)[:, None]
    usable = where & np.isfinite(kl)
    y = np.log(np.where(usable, kl, 1.0))
    num = usable.sum(0)
    mean_x = (x * usable).sum(0) / np.maximum(num, 1)
    centred = np.where(usable, x - mean_x, 0.0)
    spread = (centred**2).sum(0)
    slope = (centred * y).sum(0) / np.where(spread > 0, spread, 1.0)
    return np.where(num > MIN_STEPS, np.exp(slope), np.nan)
