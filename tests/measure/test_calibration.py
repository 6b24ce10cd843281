"""The threshold found is the largest one whose risk the binomial bound allows, and the bound is exact."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surelock.measure.calibration import (
    calibrate,
    clopper_pearson_upper,
    min_trials,
    split_runs,
    threshold_grid,
    trials,
)
from surelock.measure.trace import Trace, lock_steps
from surelock.params import LockParams

LOCK = LockParams()
GRID = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def planted(num: int, cutoff: float, *, first: int = 0, num_steps: int = 4, seed: int = 0) -> Trace:
    """num sequences of 12 positions, half of them prompt, each with a constant D; those above the cutoff move later."""
    rng = np.random.default_rng(seed)
    kl = 10 ** rng.uniform(-7, 0, (num, 12))
    kl[:, 0] = 1e-7
    shape = (num_steps, num, 12)
    tv = np.broadcast_to(np.where(kl > cutoff, 0.5, 0.0), shape).astype(np.float32)
    divergence = np.broadcast_to(kl, shape).astype(np.float32).copy()
    divergence[0] = np.inf
    nothing = np.zeros(shape, dtype=np.float32)
    committed_at = np.broadcast_to(np.r_[np.zeros(6), np.ones(6)], (num, 12)).astype(np.int32)
    return Trace(
        kl=divergence,
        uncertainty=nothing,
        logit_step=nothing,
        log_step=nothing,
        tv=tv,
        log_gap=nothing,
        token_gap=nothing,
        flipped=nothing > 0,
        committed_at=committed_at,
        locked_at=np.zeros_like(committed_at),
        rewritten=np.zeros_like(committed_at),
        vocab_size=10,
        canvases=np.arange(first, first + num),
    )


def test_the_distance_of_the_lock_is_that_of_its_own_step() -> None:
    """Not of the step after it: what is frozen is the posterior that the lock saw."""
    run = planted(3, cutoff=1.0)
    locks = np.zeros_like(run.locked_at)
    locks[:, 2] = 2
    for step, rate in ((1, 0.0), (2, 1.0), (3, 0.0)):
        tv = np.zeros_like(run.tv)
        tv[step - 1] = 0.5
        assert trials([replace(run, tv=tv)], [locks], delta=0.1, seed=0).rate == rate


@pytest.mark.parametrize("cutoff", [3e-6, 3e-4, 3e-2])
def test_the_largest_threshold_without_risk_is_found(cutoff: float) -> None:
    # In half the runs, so that grouping does not matter.
    calibration = [planted(60, cutoff), planted(60, cutoff, first=60, num_steps=5, seed=1)]
    held_out = [planted(60, cutoff, first=120, seed=2)]
    report = calibrate(calibration, held_out, LOCK, delta=0.05, alpha=0.05, grid=GRID)
    expected = max(threshold for threshold in GRID if threshold <= cutoff)
    assert report.kl_threshold == expected
    assert report.chosen is not None
    assert report.chosen["upper_bound"] == clopper_pearson_upper(0, 120, 0.95) < 0.05
    assert report.chosen["held_out_rate"] == 0
    failed = report.table[GRID.index(expected) + 1]
    assert failed["upper_bound"] > 0.05
    assert not failed["passed"]
    # Nothing is tested after the first that fails.
    assert all(row["upper_bound"] is None for row in report.table[GRID.index(expected) + 2 :])
    assert (report.num_calibration, report.num_held_out) == (120, 60)


def test_nothing_passes_where_everything_moves() -> None:
    runs = [planted(90, 0.0)]
    report = calibrate(runs, runs, LOCK, delta=0.05, alpha=0.05, grid=GRID)
    assert report.kl_threshold is None
    assert report.chosen is None
    assert [row["upper_bound"] is not None for row in report.table] == [True, *[False] * 5]


def test_thresholds_at_which_few_sequences_lock_are_not_tested() -> None:
    run = planted(120, 1.0)
    kl = run.kl.copy()
    kl[:, 30:] *= 500
    report = calibrate([replace(run, kl=kl)], [replace(run, kl=kl)], LOCK, delta=0.05, alpha=0.05, grid=GRID)
    tested = [row for row in report.table if row["upper_bound"] is not None]
    assert tested[0]["kl_threshold"] == 1e-4
    assert report.table[0]["sequences"] == 30
    assert tested[0]["sequences"] == 120


def test_a_sequence_that_starts_with_few_trials_may_fail_and_a_later_one_pass() -> None:
    # Up to 1e-5 only 130 of 400 sequences lock, and they move; above, the others lock and do not.
    run = planted(400, 1.0)
    kl, tv = run.kl.copy(), run.tv.copy()
    kl[:, 130:] *= 500
    tv[:, :130, 0] = np.where(np.arange(130) < 9, 0.5, 0.0)
    tv[:, :, 1:] = 0
    kl[:, :130, 1:] = 1.0
    moved = replace(run, kl=kl, tv=tv)
    report = calibrate([moved], [moved], LOCK, delta=0.05, alpha=0.05, grid=GRID)
    passed = {row["kl_threshold"]: row["passed"] for row in report.table if row["upper_bound"] is not None}
    assert passed[1e-6] is False
    assert passed[1e-4] is True
    assert report.kl_threshold is not None
    assert report.kl_threshold >= 1e-4
    # Two starts share the error, so the bound is at 97.5 %.
    first = report.table[0]
    assert first["upper_bound"] == clopper_pearson_upper(first["violations"], 130, 0.975)


def test_too_few_sequences_can_never_pass() -> None:
    runs = [planted(58, 1.0)]
    assert calibrate(runs, runs, LOCK, delta=0.05, alpha=0.05, grid=GRID).kl_threshold is None


def test_one_position_of_each_sequence_is_drawn_whatever_the_grouping() -> None:
    run = planted(40, 1e-4)
    locks = lock_steps(run, replace(LOCK, kl_threshold=1e-2))
    whole = trials([run], [locks], delta=0.05, seed=3)
    halves = [np.arange(40) < 15, np.arange(40) >= 15]
    parts = trials([run.take(half) for half in halves], [locks[half] for half in halves], delta=0.05, seed=3)
    for name in ("locked", "violations", "drawn", "active"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))
    assert whole.rate == pytest.approx(np.mean(whole.violations / whole.locked))
    # A draw violates about as often as positions do.
    draws = np.mean([trials([run], [locks], delta=0.05, seed=seed).drawn.mean() for seed in range(60)])
    assert draws == pytest.approx(whole.rate, abs=0.03)
    expected = np.where(locks > 0, locks, run.num_steps).mean(1) / run.num_steps
    assert whole.active == pytest.approx(expected)


def test_prompt_positions_can_be_left_out() -> None:
    run = planted(10, 0.0)
    locks = lock_steps(run, replace(LOCK, kl_threshold=1.0))
    assert trials([run], [locks], delta=0.05, seed=0).positions.tolist() == [12] * 10
    generated = trials([run], [locks], delta=0.05, seed=0, generated_only=True)
    assert generated.positions.tolist() == [6] * 10
    assert (generated.locked <= 6).all()


@given(st.integers(0, 40), st.integers(1, 40), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_bound_is_where_so_few_violations_become_unlikely(violations: int, num: int, confidence: float) -> None:
    upper = clopper_pearson_upper(violations, num, confidence)
    if violations >= num:
        assert upper == 1
        return
    chance = sum(math.comb(num, k) * upper**k * (1 - upper) ** (num - k) for k in range(violations + 1))
    assert chance == pytest.approx(1 - confidence, rel=1e-6)


def test_the_bound_covers_as_often_as_it_says() -> None:
    num = 40
    for share in (0.02, 0.05, 0.2):
        misses = sum(
            math.comb(num, k) * share**k * (1 - share) ** (num - k)
            for k in range(num + 1)
            if clopper_pearson_upper(k, num, 0.95) < share
        )
        assert misses <= 0.05


def test_the_least_number_of_trials() -> None:
    assert min_trials(0.05, 0.95) == 59
    assert clopper_pearson_upper(0, 59, 0.95) <= 0.05 < clopper_pearson_upper(0, 58, 0.95)


def test_grids_begin_where_rounding_ends() -> None:
    assert threshold_grid()[0] == 1e-9
    assert threshold_grid(is_half_precision=True)[0] == 1e-6
    assert threshold_grid()[-1] == 1.0
    assert 1e-3 in threshold_grid()
    assert 5.62e-4 in threshold_grid(is_half_precision=True)


def test_a_third_is_held_out_and_nothing_is_in_both() -> None:
    runs = [planted(20, 1.0), planted(10, 1.0, first=20)]
    sides = split_runs(runs, seed=1)
    numbers = [sorted(int(i) for run in side for i in run.canvases) for side in sides]
    assert len(numbers[1]) == 10
    assert sorted(numbers[0] + numbers[1]) == list(range(30))
    again = split_runs(runs, seed=2)
    assert numbers[1] != sorted(int(i) for run in again[1] for i in run.canvases)
    for run in sides[0]:
        assert run.kl.shape == (4, len(run.canvases), 12)
