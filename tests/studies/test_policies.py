"""What policies do with states written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from studies.policies import (
    AfterOneStep,
    ByDrift,
    ByKL,
    DriftOf,
    OnlySaturated,
    Policy,
    Refreshed,
    Unlocking,
    UnlockOnDrift,
    finite_horizon,
    masks_left,
)
from surelock.params import LockParams
from tests.studies.states import drift, row, state


def test_schedules() -> None:
    masked = row(True, True, False, False)
    now = state(4, num_steps=14, masked=masked)
    assert finite_horizon(2.0)(now).tolist() == [2.0 / 100]
    assert masks_left(0.3, kappa=1.0)(now).item() == pytest.approx(0.3 / 4)
    # Never above its scale, and defined where no mask is left.
    assert masks_left(0.3, kappa=3.0)(now).item() == pytest.approx(0.3)
    assert masks_left(0.3, kappa=3.0)(state(4)).item() == pytest.approx(0.3)


def test_a_schedule_takes_the_place_of_epsilon() -> None:
    rule = ByKL(LockParams.permanent(1.0), finite_horizon(1.0))
    kl = row(0.02, 0.2, 0.02, 0.02)
    assert rule.lock(state(10, kl=kl)).tolist() == [[False, False, False, False]]
    assert rule.lock(state(13, kl=kl)).tolist() == [[True, False, True, True]]


def test_tested_rows_are_visible_candidates_with_a_posterior_before() -> None:
    now = state(
        3,
        kl=row(0.1, torch.inf, 0.1, 0.1),
        age=row(1, 1, 0, 2),
        given=row(False, False, False, True),
    )
    assert ByKL(LockParams.permanent()).tested(now).tolist() == [[True, False, False, True]]
    assert ByKL(LockParams(prompt_lock_step=2, refresh=None)).tested(now).tolist() == [[True, False, False, False]]
    assert not AfterOneStep().tested(now).any()


def test_after_one_step() -> None:
    now = state(3, kl=torch.full((1, 4), 9.0), age=row(0, 1, 2, 3), candidates=row(True, True, True, False))
    assert AfterOneStep().lock(now).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        ("values", [True, False, False, False]),
        ("keys", [True, True, False, False]),
        ("both", [True, False] + [False] * 2),
    ],
)
def test_by_drift(of: DriftOf, expected: list[bool]) -> None:
    moved = drift(keys_step=row(0.0, 0.1, torch.nan, 0.0), values_step=row(0.1, 0.2, torch.nan, 0.0))
    now = state(3, drift=moved, age=row(1, 1, 1, 0))
    assert ByDrift(0.1000001, of).lock(now).tolist() == [expected]


def test_only_saturated() -> None:
    now = state(3, uncertainty=row(1e-5, 0.1, 1e-5, 0.2), candidates=row(True, True, False, True))
    assert OnlySaturated(AfterOneStep, 1e-3, below=True).lock(now).tolist() == [[True, False, False, False]]
    assert OnlySaturated(AfterOneStep, 1e-3, below=False).lock(now).tolist() == [[False, True, False, True]]


def test_refreshed_locks_as_before() -> None:
    policy = Refreshed(AfterOneStep, 4)
    locked = row(True, False, True, False)
    assert policy.refresh(state(8, locked=locked)).equal(locked)
    assert not policy.refresh(state(7, locked=locked)).any()
    assert policy.lock(state(8)).all()
    assert not policy.unlock(state(8, locked=locked)).any()
    assert not Policy().lock(state(8)).any()


BY_KL = Unlocking(by="kl", threshold=0.1, period=4, min_locked=2, cool_down=3, strictness=0.5)


def test_a_probe_takes_only_what_has_been_locked_for_long() -> None:
    policy = UnlockOnDrift(LockParams.permanent(), BY_KL)
    now = state(8, locked=row(True, True, True, False), locked_at=row(2, 5, 6, 0))
    assert policy.refresh(now).tolist() == [[True, True, False, False]]
    assert not policy.refresh(state(7, locked=now.locked, locked_at=now.locked_at)).any()


def test_unlocking_rests_and_then_is_stricter() -> None:
    policy = UnlockOnDrift(LockParams.permanent(0.2), BY_KL)
    some = row(True, True, False, False)
    # Step 1 locks two rows, whose posteriors are kept.
    assert policy.lock(state(1, candidates=some)).equal(some)
    frozen: dict[str, Any] = {"locked": some, "locked_at": some.int(), "candidates": ~some}
    assert policy.refresh(state(4, **frozen)).equal(some)
    moved = torch.zeros(1, 4, 3)
    moved[0, 1, 0] = 3.0
    now = state(4, **frozen, logits=moved)
    policy.lock(now)
    assert policy.unlock(now).tolist() == [[False, True, False, False]]
    # Three steps of rest, then half of epsilon.
    second = row(False, True, False, False)
    lockable: dict[str, Any] = {"candidates": second, "locked": row(True, False, False, False)}
    for step, kl, expected in ((5, 0.0, False), (7, 0.0, False), (8, 0.15, False), (8, 0.09, True)):
        found = policy.lock(state(step, **lockable, kl=torch.full((1, 4), kl)))
        assert bool(found[0, 1]) == expected, (step, kl)
    # A row that was never unlocked locks by epsilon itself.
    assert policy.lock(state(5, candidates=~some, kl=torch.full((1, 4), 0.15)))[0, 2]


def test_under_a_gate_only_unsure_rows_unlock() -> None:
    lock = LockParams(confidence_percentile=0, refresh=None)
    by_drift = Unlocking(by="drift", threshold=0.1, period=4, min_locked=2)
    moved = drift(keys_frozen=row(0.5, 0.5, 0.05, torch.nan), values_frozen=row(0.0, 0.0, 0.0, torch.nan))
    locked = row(True, True, True, False)
    now = state(
        4, locked=locked, locked_at=locked.int(), candidates=~locked, drift=moved, uncertainty=row(0.9, 0.1, 0.9, 0.5)
    )
    policy = UnlockOnDrift(lock, by_drift)
    policy.refresh(now)
    policy.lock(now)
    assert policy.unlock(now).tolist() == [[True, False, False, False]]
    # Without a gate how sure it is does not matter.
    policy = UnlockOnDrift(LockParams.permanent(), by_drift)
    policy.refresh(now)
    policy.lock(now)
    assert policy.unlock(now).tolist() == [[True, True, False, False]]
    # Nothing to compare with: no candidate, no limit.
    nobody = state(4, locked=locked, locked_at=locked.int(), candidates=locked & ~locked, drift=moved)
    policy = UnlockOnDrift(lock, by_drift)
    policy.refresh(nobody)
    policy.lock(nobody)
    assert policy.unlock(nobody).tolist() == [[True, True, False, False]]


def test_posteriors_that_are_compared_cost_head_rows() -> None:
    locked = row(True, False, False, False)
    now = state(4, locked=locked, locked_at=locked.int(), candidates=~locked, kl=row(torch.inf, 0.1, 0.1, 0.1))
    for unlocking, probed in ((BY_KL, True), (Unlocking(by="drift", threshold=0.1, period=4, min_locked=2), False)):
        policy = UnlockOnDrift(LockParams.permanent(), unlocking)
        policy.refresh(now)
        assert policy.tested(now).tolist() == [[probed, True, True, True]]
