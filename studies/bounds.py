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
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from studies.locked_rows import FLOOR, LockedRows, Reals, fitted_rho
from surelock.measure.trace import Integers, Trace

LIPSCHITZ: Final = float(np.sqrt(2.0))
QUANTILE: Final = 0.95
MAX_AGE: Final = 48
UNCERTAINTY_EDGES: Final = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
AGE_QUANTILES: Final = (0.1, 0.5, 0.9, 0.99)


def summarise(rows: LockedRows, *, delta: float, epsilon: float, quantile: float = QUANTILE) -> dict[str, float]:
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
    rho, tail, lagged = level(rows.rho, 0.5), level(rows.tail, quantile), level(rows.lagged, quantile)
    c_tail = LIPSCHITZ * lagged * tail
    c_direct = level(rows.log_gap / root, quantile)
    bound, tv_bound = c_tail * root, tail * root / np.sqrt(2)
    geometric = geometric_tv_bound(rows.kl, rho)
    return {
        "rows": len(rows),
        "kl_median": level(rows.kl, 0.5),
        "rho_median": rho,
        "rho_p90": level(rows.rho, 0.9),
        "rho_p95": level(rows.rho, 0.95),
        "rho_above_1": mean(rows.rho[~np.isnan(rows.rho)] > 1.0),
        "rho_needed_median": level(rows.rho_needed, 0.5),
        "a2_holds": mean(rows.rho_needed <= 1.0),
        "rising_steps": mean(rows.rising),
        "tail_median": level(rows.tail, 0.5),
        "tail_p95": level(rows.tail, 0.95),
        "tail_max": level(rows.tail, 1.0),
        "tail_if_geometric": float(1 / (1 - np.sqrt(rho))) if rho < 1 else float("inf"),
        "lagged_l_median": level(rows.lagged, 0.5),
        "lagged_l_p95": level(rows.lagged, 0.95),
        "lagged_l_max": level(rows.lagged, 1.0),
        "unlagged_l_median": level(rows.unlagged, 0.5),
        "unlagged_l_p95": level(rows.unlagged, 0.95),
        "l_sm": LIPSCHITZ,
        "c_tail": c_tail,
        "implied_delta": c_tail * float(np.sqrt(max(epsilon, 0.0))),
        "implied_epsilon": (delta / c_tail) ** 2 if c_tail > 0 else float("nan"),
        "log_gap_median": level(rows.log_gap, 0.5),
        "log_gap_p95": level(rows.log_gap, 0.95),
        "token_gap_p95": level(rows.token_gap, 0.95),
        "c_tail_coverage": mean(rows.log_gap <= bound),
        "c_tail_slack": level(bound / np.maximum(rows.log_gap, 1e-9), 0.5),
        "direct_c": c_direct,
        "direct_epsilon": (delta / c_direct) ** 2 if c_direct > 0 else float("nan"),
        "tv_median": level(rows.tv, 0.5),
        "tv_p95": level(rows.tv, 0.95),
        "tv_above_delta": mean(rows.tv > delta),
        "log_gap_above_delta": mean(rows.log_gap > delta),
        "flipped": mean(rows.flipped),
        # Rounding of float32 posteriors is not a violation.
        "tv_sum_coverage": mean(rows.tv <= rows.tv_sum + 1e-5),
        "tv_sum_slack": level(rows.tv_sum / np.maximum(rows.tv, 1e-6), 0.5),
        "tv_sum_within_delta": mean(rows.tv_sum <= delta),
        "tv_tail_coverage": mean(rows.tv <= tv_bound + 1e-5),
        "tv_geometric_coverage": mean(rows.tv <= geometric + 1e-5) if rho < 1 else float("nan"),
        "tv_geometric_epsilon": float(2 * delta**2 * (1 - np.sqrt(rho)) ** 2 / rho) if rho < 1 else float("nan"),
    }


def geometric_tv_bound(kl: Reals, rho: float) -> Reals:
    """sqrt(rho D / 2) / (1 - sqrt rho): what telescoping gives under A2; +inf unless rho < 1."""
    if not rho < 1:
        return np.full_like(kl, np.inf)
    bound: Reals = np.sqrt(rho * kl / 2) / (1 - np.sqrt(rho))
    return bound


def by_uncertainty(rows: LockedRows, vocab_size: int) -> list[dict[str, float]]:
    """L, lagged and not, in bins of the uncertainty at the lock, beside sqrt(V / u): its size for iid logit changes."""
    table = []
    for low, high in itertools.pairwise(UNCERTAINTY_EDGES):
        part = rows.where((rows.uncertainty >= low) & (rows.uncertainty < high))
        if not len(part):
            continue
        lagged, unlagged = np.quantile(part.lagged, (0.5, 0.95)), np.quantile(part.unlagged, (0.5, 0.95))
        middle = float(np.median(part.uncertainty))
        table.append({
            "uncertainty_from": low, "uncertainty_to": high, "rows": len(part),
            "lagged_l_median": float(lagged[0]), "lagged_l_p95": float(lagged[1]),
            "unlagged_l_median": float(unlagged[0]), "unlagged_l_p95": float(unlagged[1]),
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
            levels = np.quantile(kl.astype(np.float64), AGE_QUANTILES)
            names = (f"kl_p{round(100 * q)}" for q in AGE_QUANTILES)
            mean = {"kl_mean": float(kl.mean(dtype=np.float64))}
            table.append({"age": age, "rows": len(kl)} | dict(zip(names, map(float, levels), strict=True)) | mean)
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
    found = []
    for run in runs:
        moved, gap = run.logit_step[1:].astype(np.float64), run.log_step[1:].astype(np.float64)
        there = moved > 1e-3
        found.append(gap[there] / moved[there])
    return np.concatenate(found)
