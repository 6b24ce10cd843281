"""The estimators find what was planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from studies.bounds import (
    LIPSCHITZ,
    averaged,
    by_age,
    by_uncertainty,
    joined,
    lipschitz_ratios,
    locked_rows,
    summarise,
)
from studies.open.theorem import hold
from surelock.measure.trace import Trace, lock_steps
from surelock.params import LockParams

RHO, L, FIRST = 0.7225, 300.0, 4e-2


def of_logits(logits: NDArray[np.float64], committed_at: NDArray[np.int32]) -> Trace:
    """The trace of a scripted run of one canvas: logits [T, N, V], committed_at [N]."""
    log_p = logits - np.log(np.exp(logits - logits.max(2, keepdims=True)).sum(2, keepdims=True))
    log_p -= logits.max(2, keepdims=True)
    p = np.exp(log_p)
    change = np.diff(logits, axis=0)
    unknown = np.full((1, logits.shape[1]), np.nan)
    kl = np.maximum((p[1:] * (log_p[1:] - log_p[:-1])).sum(2), 0.0)
    gap = np.abs(log_p - log_p[-1])
    top = logits[-1].argmax(1)

    def canvas(values: NDArray[np.float64]) -> NDArray[np.float32]:
        return values[:, None].astype(np.float32)

    return Trace(
        kl=canvas(np.vstack((np.full_like(unknown, np.inf), kl))),
        uncertainty=canvas(1 - p.max(2)),
        logit_step=canvas(np.vstack((unknown, np.linalg.norm(change - change.mean(2, keepdims=True), axis=2)))),
        log_step=canvas(np.vstack((unknown, np.abs(np.diff(log_p, axis=0)).max(2)))),
        tv=canvas(np.abs(p - p[-1]).sum(2) / 2),
        log_gap=canvas(gap.max(2)),
        token_gap=canvas(gap[:, np.arange(len(top)), top]),
        flipped=(logits.argmax(2) != top)[:, None],
        committed_at=committed_at[None],
        locked_at=np.zeros_like(committed_at)[None],
        rewritten=np.zeros_like(committed_at)[None],
        vocab_size=logits.shape[2],
        canvases=np.zeros(1, dtype=np.int64),
    )


def planted(num: int = 40, num_steps: int = 40, jump: float = 0.0, seed: int = 0) -> Trace:
    """Logits that contract by sqrt(RHO) a step towards their end, with jumps of their neighbours' making."""
    rng = np.random.default_rng(seed)
    end = 2 * rng.normal(size=(num, 200))
    end[np.arange(num), rng.integers(200, size=num)] += rng.uniform(6, 12, num)
    direction, offset = rng.normal(size=end.shape), np.zeros_like(end)
    logits = []
    for t in range(num_steps):
        hit = rng.random(num) < jump
        offset[hit] += 0.1 * rng.normal(size=(int(hit.sum()), 200))
        logits.append(end + RHO ** (t / 2) * direction + offset)
    return of_logits(np.stack(logits), np.zeros(num, dtype=np.int32))


def exact() -> tuple[Trace, NDArray[np.int32]]:
    """D_s = FIRST * RHO ** s and ||dz_s|| = L sqrt(D_(s-1)) exactly, locked at step 5 of 30."""
    kl = FIRST * RHO ** np.arange(30.0)
    kl[0] = np.inf
    before = np.r_[np.nan, np.nan, kl[1:-1]]
    base = planted(2, 30)
    two = np.ones(2)
    run = replace(
        base,
        kl=(kl[:, None, None] * two).astype(np.float32),
        logit_step=(L * np.sqrt(before)[:, None, None] * two).astype(np.float32),
    )
    return run, np.full((1, 2), 5, dtype=np.int32)


def test_planted_constants_are_found() -> None:
    rows = locked_rows(*exact())
    lags = RHO ** (np.arange(25) / 2)
    assert len(rows) == 2
    np.testing.assert_allclose(rows.rho, RHO, rtol=1e-5)
    np.testing.assert_allclose(rows.rho_needed, RHO, rtol=1e-5)
    np.testing.assert_allclose(rows.rising, 0)
    np.testing.assert_allclose(rows.tail, lags.sum(), rtol=1e-5)
    np.testing.assert_allclose(rows.lagged, L, rtol=1e-5)
    np.testing.assert_allclose(rows.unlagged, L / np.sqrt(RHO), rtol=1e-5)
    np.testing.assert_allclose(rows.kl, FIRST * RHO**4, rtol=1e-5)
    np.testing.assert_allclose(rows.tv_sum, np.sqrt(FIRST * RHO ** np.arange(5, 30) / 2).sum(), rtol=1e-5)
    assert rows.is_prompt.all()


def test_the_bound_follows_from_the_constants() -> None:
    numbers = summarise(locked_rows(*exact()), delta=0.05, epsilon=5e-4)
    c_tail = np.sqrt(2) * L * (RHO ** (np.arange(25) / 2)).sum()
    assert numbers["c_tail"] == pytest.approx(c_tail, rel=1e-4)
    assert numbers["implied_epsilon"] == pytest.approx((0.05 / c_tail) ** 2, rel=1e-4)
    assert numbers["implied_delta"] == pytest.approx(c_tail * np.sqrt(5e-4), rel=1e-4)
    assert numbers["a2_holds"] == 1


def test_steps_that_rise_are_counted() -> None:
    run, locked_at = exact()
    kl = run.kl.copy()
    kl[10:20] = kl[9]
    kl[15] *= 4
    rows = locked_rows(replace(run, kl=kl), locked_at)
    # A rise to step 16 among the 25 steps after the lock; equal ones do not rise.
    np.testing.assert_allclose(rows.rising, 1 / 25)
    np.testing.assert_allclose(rows.rho_needed, 4, rtol=1e-5)


def test_a_contraction_is_recovered_from_logits() -> None:
    run = planted()
    found = lock_steps(run, LockParams.permanent(1e-3))
    numbers = summarise(locked_rows(run, found), delta=0.05, epsilon=1e-3)
    assert numbers["rows"] == 40
    assert numbers["rho_median"] == pytest.approx(RHO, abs=0.01)
    # float32 near the floor
    assert numbers["rising_steps"] < 0.01
    assert numbers["c_tail_coverage"] == 1
    assert numbers["tv_sum_coverage"] == 1
    # What theory predicts for logit changes that are iid over the vocabulary.
    assert numbers["c_tail_slack"] > 50


def test_jumps_break_the_assumption_but_not_the_telescoped_sum() -> None:
    run = planted(jump=0.1)
    numbers = summarise(locked_rows(run, lock_steps(run, LockParams.permanent())), delta=0.05, epsilon=5e-4)
    assert numbers["rising_steps"] > 0.05
    assert numbers["a2_holds"] < 0.5
    assert numbers["tv_sum_coverage"] == 1


def test_log_softmax_is_lipschitz_with_sqrt_two() -> None:
    assert lipschitz_ratios([planted(jump=0.1)]).max() <= LIPSCHITZ
    # Near the supremum: all mass on one id, and an unlikely one rises against it.
    logits = np.zeros((2, 1, 5))
    logits[:, 0, 0] = 30.0
    logits[1, 0, 0], logits[1, 0, 1] = 29.0, 1.0
    assert lipschitz_ratios([of_logits(logits, np.zeros(1, dtype=np.int32))]).max() == pytest.approx(
        LIPSCHITZ, abs=1e-3
    )


def test_uncertainty_bins_and_ages_cover_every_row() -> None:
    run = planted()
    rows = locked_rows(run, lock_steps(run, LockParams.permanent(1e-3)))
    table = by_uncertainty(rows, 200)
    assert sum(row["rows"] for row in table) == len(rows)
    for row in table:
        assert row["uncertainty_from"] <= row["uncertainty_median"] < row["uncertainty_to"]
        assert row["sqrt_v_over_u"] == pytest.approx(np.sqrt(200 / row["uncertainty_median"]))
    assert by_age([run]) == []
    generated = replace(run, committed_at=np.full_like(run.committed_at, 3))
    ages = by_age([generated])
    assert [row["age"] for row in ages] == list(range(38))
    assert ages[1]["kl_p50"] == pytest.approx(float(np.median(run.kl[3])))
    late = replace(run, committed_at=np.full_like(run.committed_at, 40))
    assert [row["age"] for row in by_age([late])] == [0]


def test_the_average_is_over_positions_that_are_not_locked() -> None:
    run, locked_at = exact()
    locked_at[0, 0] = 10
    kl = run.kl.copy()
    kl[10:, 0, 0] = 100.0
    found = averaged([replace(run, kl=kl)], [locked_at])
    # From step 11 on neither is active, before that both are the same.
    assert found["kl"][:4] == pytest.approx((FIRST * RHO ** np.arange(1, 5)).tolist(), rel=1e-5)
    assert max(found["kl"][10:]) == 1e-12


def test_rows_of_several_runs_are_joined() -> None:
    rows = locked_rows(*exact())
    assert len(joined([rows, rows])) == 4
    assert len(locked_rows(exact()[0], np.zeros((1, 2), dtype=np.int32))) == 0


def test_tables_are_of_every_threshold() -> None:
    found = hold([planted(jump=0.2)], (5e-4, 5e-3), delta=0.05, floor=1e-12)
    assert [row["kl_threshold"] for row in found["theorem"]] == [5e-4] * 3 + [5e-3] * 3
    assert [row["positions"] for row in found["theorem"][:3]] == ["all", "generated", "prompt"]
    (constants,) = found["theorem_constants"]
    assert constants["lipschitz_max"] <= LIPSCHITZ
    assert constants["lipschitz_above"] == constants["rewritten"] == 0
    assert constants["implied_epsilon"] == found["theorem"][0]["implied_epsilon"]
    assert 0 <= constants["implied_locked_share"] <= found["theorem"][0]["locked_share"]
    assert [row["step"] for row in found["theorem_mean"]] == list(range(2, 41))


def test_nothing_locked_is_no_number() -> None:
    found = hold([planted(num_steps=3)], (1e-9,), delta=0.05, floor=1e-12)
    assert found["theorem"][0]["rows"] == 0
    assert np.isnan(found["theorem"][0]["c_tail"])
    assert found["theorem_constants"][0]["implied_locked_share"] is None
