"""A KL threshold with a guarantee: the largest at which a locked posterior rarely ends far from where it was frozen.

For a rule and a threshold, the risk is P(TV(p_lock, p_T) > delta | locked): p_lock is the posterior of the step that
locks a position, p_T that of the last step, both of a run without locks. Thresholds are tested from small to large
(Learn-then-Test, arXiv 2110.01052, by fixed sequences with several starts): each must have an upper Clopper-Pearson
bound on its risk of at most alpha, and a sequence stops at the first that does not. With probability `confidence` over
the calibration prompts the risk of the threshold found is at most alpha, whatever the model; no assumption of Theorem 1
is used. Nothing is promised of runs with locks, in which others read frozen rows: `calibration_run` measures those.

Positions of one sequence depend on each other, so each calibration sequence gives one trial: one of its locked
positions, drawn at random. Where the sequences are independent, that makes the trials so and the binomial bound exact
(passages of one document are not quite). The risk is then that of a random locked position of a random sequence. A mean
over all positions would have a smaller variance but only a looser bound that knows nothing of how they depend on each
other.

At tiny thresholds few sequences lock anything, and too few trials pass no test however low the risk. So where the
sequences of tests start is read off the locks of the other prompts, not their losses: where 1.5 and 3 times the least
number of trials is to be expected, and where nearly all sequences lock. Each start takes its share of the error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from surelock.measure.trace import Integers, Trace, lock_steps
from surelock.params import MIN_HALF_PRECISION_KL, LockParams

HELD_OUT_SHARE: Final = 1 / 3
# A sequence of tests starts where so many times the least number of trials is expected, and where nearly all are.
START_MARGINS: Final = (1.5, 3.0)
ALMOST_ALL: Final = 0.95
MAX_STARTS: Final = len(START_MARGINS) + 1
SMALLEST, LARGEST, PER_DECADE = 1e-9, 1.0, 4


@dataclass(frozen=True, slots=True)
class Trials:
    """What a threshold does to each sequence [n].

    Attributes:
        locked: positions it locks. `positions`: all that are counted.
        violations: of the locked ones, those with TV(p_lock, p_T) > delta.
        drawn: bool, whether the one drawn is such; False where nothing locks.
        active: mean share of steps in which a position would be computed.
    """

    locked: NDArray[np.int64]
    positions: NDArray[np.int64]
    violations: NDArray[np.int64]
    drawn: NDArray[np.bool_]
    active: NDArray[np.float64]

    @property
    def num_trials(self) -> int:
        """Sequences that lock anything."""
        return int((self.locked > 0).sum())

    @property
    def rate(self) -> float:
        """Risk here: the mean, over sequences that lock anything, of the share of violations; NaN if none does."""
        there = self.locked > 0
        return float(np.mean(self.violations[there] / self.locked[there])) if there.any() else float("nan")


def trials(
    runs: Sequence[Trace], locks: Sequence[Integers], *, delta: float, seed: int, generated_only: bool = False
) -> Trials:
    """One trial for each sequence of the runs, locked at steps [B, N] (0 = never).

    Which position is drawn depends on the seed and the sequence's number only, as far as it is locked.
    """
    columns: list[tuple[int, int, int, bool, float]] = []
    for run, locked_at in zip(runs, locks, strict=True):
        counted = ~run.given if generated_only else np.ones_like(run.given)
        canvas, position = np.nonzero((locked_at > 0) & counted)
        broken = np.zeros(locked_at.shape, dtype=bool)
        broken[canvas, position] = run.tv[locked_at[canvas, position] - 1, canvas, position] > delta
        computed = np.where(locked_at > 0, locked_at, run.num_steps) / run.num_steps
        for index, number in enumerate(run.canvases):
            priority = np.random.default_rng((seed, int(number))).random(locked_at.shape[1])
            there = (locked_at[index] > 0) & counted[index]
            drawn = bool(there.any()) and bool(broken[index, np.where(there, priority, np.inf).argmin()])
            columns.append((
                int(there.sum()), int(counted[index].sum()), int(broken[index].sum()), drawn,
                float(computed[index].mean()),
            ))  # fmt: skip
    locked, positions, violations, draws, active = zip(*columns, strict=True)
    return Trials(
        np.array(locked), np.array(positions), np.array(violations), np.array(draws, dtype=bool), np.array(active)
    )


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What was found.

    Attributes:
        kl_threshold: the largest that passed; None if none did.
        table: for each threshold of the grid: kl_threshold, sequences (that lock anything), violations (among the
            drawn positions), upper_bound (None where not tested), passed; held_out_sequences, held_out_rate,
            held_out_violations (drawn); locked_share and active_ratio, both on the held-out prompts.
        delta, alpha, confidence: as asked for.
        num_calibration, num_held_out: sequences.
    """

    kl_threshold: float | None
    table: list[dict[str, Any]]
    delta: float
    alpha: float
    confidence: float
    num_calibration: int
    num_held_out: int

    @property
    def chosen(self) -> dict[str, Any] | None:
        """The row of the threshold found."""
        return next((row for row in self.table if row["kl_threshold"] == self.kl_threshold), None)


def calibrate(
    calibration: Sequence[Trace],
    held_out: Sequence[Trace],
    lock: LockParams,
    *,
    delta: float,
    alpha: float,
    confidence: float = 0.95,
    grid: Sequence[float],
    seed: int = 0,
    generated_only: bool = False,
) -> CalibrationReport:
    """Choose the threshold of `lock` on one set of runs without locks, and look at it on another.

    Args:
        calibration, held_out: from `trace_all` with lock=None, of different prompts.
        lock: the rule; its threshold is not used.
        delta: total variation from which a locked position counts as moved.
        alpha: highest allowed risk. `confidence`: with which it is promised.
        grid: thresholds.
        seed: of the draws.
        generated_only: leave prompt positions out of the risk; they are locked all the same.
    """
    thresholds = sorted(grid)
    found: list[tuple[Trials, Trials]] = []
    for threshold in thresholds:
        rule = replace(lock, kl_threshold=threshold, allow_noise_eps=True)
        sides = (
            trials(runs, [lock_steps(run, rule) for run in runs], delta=delta, seed=seed, generated_only=generated_only)
            for runs in (calibration, held_out)
        )
        found.append((next(sides), next(sides)))
    num_calibration, num_held_out = len(found[0][0].locked), len(found[0][1].locked)
    expected = [seen.num_trials / max(num_held_out, 1) * num_calibration for _, seen in found]
    starts = _starts(expected, num_calibration, alpha, confidence)
    level = 1 - (1 - confidence) / max(len(starts), 1)
    bounds = [clopper_pearson_upper(int(own.drawn.sum()), own.num_trials, level) for own, _ in found]
    tested = _tested(starts, [bound <= alpha for bound in bounds])
    best = max((thresholds[index] for index in tested if bounds[index] <= alpha), default=None)

    table: list[dict[str, Any]] = []
    for index, (threshold, (own, other)) in enumerate(zip(thresholds, found, strict=True)):
        upper = bounds[index] if index in tested else None
        table.append({
            "kl_threshold": threshold, "sequences": own.num_trials, "violations": int(own.drawn.sum()),
            "upper_bound": upper, "passed": upper is not None and upper <= alpha, "rate": _or_none(own.rate),
            "held_out_sequences": other.num_trials, "held_out_rate": _or_none(other.rate),
            "held_out_violations": int(other.drawn.sum()),
            "locked_share": float(other.locked.sum() / max(other.positions.sum(), 1)),
            "active_ratio": float(other.active.mean()),
        })  # fmt: skip
    return CalibrationReport(best, table, delta, alpha, confidence, num_calibration, num_held_out)


def _starts(expected: Sequence[float], num_all: int, alpha: float, confidence: float) -> list[int]:
    """Indices of the thresholds at which a sequence of tests starts, each once; `expected` trials of each threshold."""
    least = min_trials(alpha, 1 - (1 - confidence) / MAX_STARTS)
    most = ALMOST_ALL * num_all
    wanted = [*(min(margin * least, most) for margin in START_MARGINS), most]
    found = (next((index for index, num in enumerate(expected) if num >= enough), None) for enough in wanted)
    return sorted({index for index in found if index is not None})


def _tested(starts: Sequence[int], passes: Sequence[bool]) -> set[int]:
    """What is tested if from every start on each is, up to the first that does not pass."""
    tested: set[int] = set()
    for start in starts:
        for index in range(start, len(passes)):
            tested.add(index)
            if not passes[index]:
                break
    return tested


def threshold_grid(*, is_half_precision: bool = False) -> list[float]:
    """Thresholds from 1e-9 (1e-6 where rounding is larger) to 1, four in each decade, to three digits."""
    low = MIN_HALF_PRECISION_KL if is_half_precision else SMALLEST
    num = round(PER_DECADE * math.log10(LARGEST / low))
    return [float(f"{low * 10 ** (index / PER_DECADE):.3g}") for index in range(num + 1)]


def min_trials(alpha: float, confidence: float) -> int:
    """Trials without a violation that bound the risk by alpha; fewer never do."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - alpha))


def clopper_pearson_upper(num_violations: int, num_trials: int, confidence: float) -> float:
    """Exact upper confidence bound on a binomial share: the p at which so few violations have chance 1 - confidence."""
    if num_violations >= num_trials:
        return 1.0
    low, high = num_violations / num_trials, 1.0
    # Bisection to the last bit.
    for _ in range(60):
        middle = (low + high) / 2
        if _binomial_cdf(num_violations, num_trials, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) of X ~ Binomial(n, p), for 0 < p < 1."""
    log_p, log_q = math.log(p), math.log1p(-p)
    terms = (
        math.exp(math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) + j * log_p + (n - j) * log_q)
        for j in range(k + 1)
    )
    return math.fsum(terms)


def split_runs(runs: Sequence[Trace], *, seed: int) -> tuple[list[Trace], list[Trace]]:
    """The calibration and the held-out sequences of traced runs, a third of them held out, at random."""
    numbers = np.sort(np.concatenate([run.canvases for run in runs]))
    shuffled = np.random.default_rng(seed).permutation(numbers)
    held_out = shuffled[: round(len(numbers) * HELD_OUT_SHARE)]
    sides: list[list[Trace]] = [[], []]
    for run in runs:
        is_held_out = np.isin(run.canvases, held_out)
        for side, where in zip(sides, (~is_held_out, is_held_out), strict=True):
            if where.any():
                side.append(run.take(where))
    return sides[0], sides[1]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
