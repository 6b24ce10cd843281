"""Theorem 1 of SureLock (arXiv 2602.06412) held against runs without locks: its constants, its bound, what else bounds.

The theorem compares p_t*, the posterior of the step that would lock a position, with p_T, that of the last step. Both
are posteriors of one run without locks, so no locked run is needed:
    A1  a committed token never changes
    A2  D_s <= rho D_(s-1) after t*, with D_s = KL(p_s || p_(s-1))
    A3  ||z_s - z_(s-1)||_2 <= L sqrt(D_(s-1))
    A4  log softmax is L_sm-Lipschitz from l2 to l_inf; the supremum is sqrt 2 (docs/theory.md)
    =>  max_v |log p_T - log p_t*| <= C_tail sqrt(D_t*),  C_tail = L_sm L / (1 - sqrt rho)
In place of 1 / (1 - sqrt rho) the sums S = sum_(s>t*) sqrt(D_(s-1) / D_t*) that it bounds are measured.
"""

from __future__ import annotations

import itertools
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
LIPSCHITZ: Final = float(np.sqrt(2.0))
MAX_AGE: Final = 48
UNCERTAINTY_EDGES: Final = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
AGE_QUANTILES: Final = (0.1, 0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class LockedRows:
    """What became of each position that would have been locked, one number each [R].

    Attributes:
        is_prompt, kl, uncertainty: of the position, D and u at the lock, step t*.
        tv, log_gap, flipped: how far p_t* is from p_T, as in `Trace`.
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
    starts = range(0, max(len(canvas), 1), PART_ROWS)
    parts = [(canvas[start : start + PART_ROWS], position[start : start + PART_ROWS]) for start in starts]
    return joined([_of_part(run, *part, locked_at, floor) for part in parts])


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
        tv=at_lock(run.tv), log_gap=at_lock(run.log_gap),
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


def summarise(rows: LockedRows, *, delta: float, epsilon: float) -> dict[str, float]:
    """The numbers of one rule; NaN where there are no rows.

    delta: in nats for the log-probability bounds, a share for total variation. epsilon: the rule's threshold, which
    `implied_delta` is at.
    """

    def level(values: Reals, q: float) -> float:
        values = values[~np.isnan(values)]
        return float(np.quantile(values, q)) if len(values) else float("nan")

    def mean(values: NDArray[Any]) -> float:
        return float(np.mean(values)) if len(values) else float("nan")

    # A lock that needs no divergence has none.
    rows = rows.where(np.isfinite(rows.kl))
    root = np.sqrt(rows.kl)
    # The 95 % quantiles make the constants.
    rho, tail, lagged = level(rows.rho, 0.5), level(rows.tail, 0.95), level(rows.lagged, 0.95)
    c_tail, c_direct = LIPSCHITZ * lagged * tail, level(rows.log_gap / root, 0.95)
    bound = c_tail * root
    return {
        "rows": len(rows), "rho_median": rho, "rho_p95": level(rows.rho, 0.95),
        "rho_needed_median": level(rows.rho_needed, 0.5), "a2_holds": mean(rows.rho_needed <= 1.0),
        "rising_steps": mean(rows.rising), "tail_median": level(rows.tail, 0.5), "tail_p95": tail,
        "lagged_l_median": level(rows.lagged, 0.5), "lagged_l_p95": lagged,
        "unlagged_l_p95": level(rows.unlagged, 0.95), "c_tail": c_tail,
        "implied_delta": c_tail * float(np.sqrt(max(epsilon, 0.0))),
        "implied_epsilon": (delta / c_tail) ** 2 if c_tail > 0 else float("nan"),
        "log_gap_p95": level(rows.log_gap, 0.95), "c_tail_coverage": mean(rows.log_gap <= bound),
        "c_tail_slack": level(bound / np.maximum(rows.log_gap, 1e-9), 0.5),
        "direct_epsilon": (delta / c_direct) ** 2 if c_direct > 0 else float("nan"),
        "tv_p95": level(rows.tv, 0.95), "tv_above_delta": mean(rows.tv > delta), "flipped": mean(rows.flipped),
        # Rounding of float32 posteriors is not a violation.
        "tv_sum_coverage": mean(rows.tv <= rows.tv_sum + 1e-5),
        "tv_sum_slack": level(rows.tv_sum / np.maximum(rows.tv, 1e-6), 0.5),
    }  # fmt: skip


def by_uncertainty(rows: LockedRows, vocab_size: int) -> list[dict[str, float]]:
    """L, lagged and not, in bins of the uncertainty at the lock, beside sqrt(V / u): its size for iid logit changes."""
    table = []
    for low, high in itertools.pairwise(UNCERTAINTY_EDGES):
        part = rows.where((rows.uncertainty >= low) & (rows.uncertainty < high))
        if len(part):
            lagged, unlagged = (np.quantile(each, (0.5, 0.95)).tolist() for each in (part.lagged, part.unlagged))
            middle = float(np.median(part.uncertainty))
            table.append({
                "uncertainty_from": low, "uncertainty_to": high, "rows": len(part),
                "lagged_l_median": lagged[0], "lagged_l_p95": lagged[1],
                "unlagged_l_median": unlagged[0], "unlagged_l_p95": unlagged[1],
                "uncertainty_median": middle, "sqrt_v_over_u": float(np.sqrt(vocab_size / max(middle, 1e-12))),
            })  # fmt: skip
    return table


def by_age(runs: Sequence[Trace]) -> list[dict[str, float]]:
    """Quantiles of D over generated positions by age: 0 is the step that commits them, 1 the first that sees them."""
    seen: dict[int, list[NDArray[Any]]] = {}
    for run in runs:
        canvas, position = np.nonzero(run.committed_at > 0)
        committed = run.committed_at[canvas, position]
        for age in range(min(MAX_AGE, run.num_steps - 1) + 1):
            # Nothing precedes the first step.
            there = (committed + age <= run.num_steps) & (committed + age >= 2)
            kl = run.kl[committed[there] + age - 1, canvas[there], position[there]]
            seen.setdefault(age, []).append(kl)
    table = []
    for age, parts in seen.items():
        kl = np.concatenate(parts)
        if len(kl):
            row = {"age": age, "rows": len(kl), "kl_mean": float(kl.mean(dtype=np.float64))}
            levels = np.quantile(kl.astype(np.float64), AGE_QUANTILES).tolist()
            table.append(row | {f"kl_p{round(100 * q)}": at for q, at in zip(AGE_QUANTILES, levels, strict=True)})
    return table


def averaged(runs: Sequence[Trace], locks: Sequence[Integers], *, floor: float = FLOOR) -> dict[str, Any]:
    """A2 as the paper looks at it: the mean of D over the positions that are not locked, step by step.

    Returns: `kl` [T - 1] from step 2 on, of the runs of the most common length; `rho` of its regression; `rising`, the
    share of its steps that rise.
    """
    lengths = [run.num_steps for run in runs]
    length = max(set(lengths), key=lengths.count)
    totals, counts = np.zeros(length), np.zeros(length)
    for run, locked_at in zip(runs, locks, strict=True):
        if run.num_steps == length:
            number = np.arange(1, length + 1)[:, None, None]
            active = (locked_at == 0) | (number <= locked_at)
            totals += np.where(active, np.where(np.isfinite(run.kl), run.kl, 0.0), 0.0).sum((1, 2))
            counts += active.sum((1, 2))
    kl = np.maximum(totals / np.maximum(counts, 1), floor)[1:]
    rho = float(fitted_rho(kl[:, None], np.ones((len(kl), 1), dtype=bool))[0])
    rising = float(np.mean(kl[1:] > kl[:-1])) if len(kl) > 1 else float("nan")
    return {"kl": kl.tolist(), "rho": rho, "rising": rising}


def lipschitz_ratios(runs: Sequence[Trace]) -> Reals:
    """max_v |d log p| / ||dz||_2 of every position and step that moved; A4 says at most sqrt 2."""
    moved, gap = (
        np.concatenate([getattr(run, name)[1:].ravel() for run in runs]).astype(np.float64)
        for name in ("logit_step", "log_step")
    )
    ratios: Reals = gap[moved > 1e-3] / moved[moved > 1e-3]
    return ratios
