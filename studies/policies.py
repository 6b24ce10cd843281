"""What may be done with a position in a dense run: lock it, compute it anew, unlock it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from surelock.measure.instrumented import MeasuredState, RefreshEvery
from surelock.measure.instrumented.decoder import lock_by_kl, lock_numbers
from surelock.ops.step_kl import kl_from_logits
from surelock.params import LockParams

# Epsilon of each canvas in this step, float64 [B].
Schedule = Callable[[MeasuredState], Tensor]
DriftOf = Literal["values", "keys", "both"]


class Policy:
    """Locks nothing. One serves one run, so it may remember what it did; masks are [B, N].

    Attributes:
        needs_drift: whether the decoder has to measure it.
        revisits: whether `refresh` or `unlock` may return anything.
    """

    needs_drift = False
    revisits = False

    def lock(self, state: MeasuredState) -> Tensor:
        """Candidates to lock after this step."""
        return torch.zeros_like(state.locked)

    # Rows whose logits `lock` and `unlock` compare with earlier ones: two rows of the LM head each.
    tested = lock
    # Locked positions to compute anew in the step that begins, and those that are active from the next step on.
    refresh = unlock = lock


class ByKL(Policy):
    """The engine's own rule.

    Args:
        lock: its parameters.
        schedule: epsilon step by step, in place of lock.kl_threshold.
    """

    def __init__(self, lock: LockParams, schedule: Schedule | None = None) -> None:
        self._lock, self._schedule = lock, schedule

    def lock(self, state: MeasuredState) -> Tensor:
        numbers = lock_numbers(self._lock, len(state.tokens), state.tokens.device)
        if self._schedule is not None:
            numbers = replace(numbers, kl_threshold=self._schedule(state))
        return lock_by_kl(state, numbers)

    def tested(self, state: MeasuredState) -> Tensor:
        where = state.candidates & (state.age >= self._lock.min_visible_steps) & state.kl.isfinite()
        due = self._lock.prompt_lock_step
        return where & ~state.given if due is not None and state.step >= due else where


class AfterOneStep(Policy):
    """Lock every position once it was computed with its token, whatever moved: dKV-Cache (arXiv 2505.15781)."""

    def lock(self, state: MeasuredState) -> Tensor:
        return state.candidates & (state.age >= 1)


class Wrapped(Policy):
    """Does as the policy that `start` makes, for those that change a part of it."""

    def __init__(self, start: Callable[[], Policy]) -> None:
        self._inner = start()
        self.needs_drift = self._inner.needs_drift

    def lock(self, state: MeasuredState) -> Tensor:
        return self._inner.lock(state)

    def tested(self, state: MeasuredState) -> Tensor:
        return self._inner.tested(state)


class Refreshed(Wrapped):
    """Every period steps all locked positions are computed anew; they stay locked."""

    revisits = True

    def __init__(self, start: Callable[[], Policy], period: int) -> None:
        super().__init__(start)
        self._every = RefreshEvery(period)

    def refresh(self, state: MeasuredState) -> Tensor:
        return self._every(state)


class ByDrift(Policy):
    """Lock a position whose keys or values moved by at most a threshold in this step, which needs no LM head.

    threshold: of the maximum over layers of ||now - before|| / ||before||. of: whose movement; both: the larger.
    """

    needs_drift = True

    def __init__(self, threshold: float, of: DriftOf) -> None:
        self._threshold, self._of = threshold, of

    def lock(self, state: MeasuredState) -> Tensor:
        assert state.drift is not None, "the decoder measures drift"
        keys, values = state.drift.keys_step.amax(0), state.drift.values_step.amax(0)
        moved = {"keys": keys, "values": values, "both": torch.maximum(keys, values)}[self._of]
        return state.candidates & (state.age >= 1) & (moved <= self._threshold)


class OnlySaturated(Wrapped):
    """Locks only rows of an uncertainty below a limit, or only the others."""

    def __init__(self, start: Callable[[], Policy], limit: float, *, below: bool) -> None:
        super().__init__(start)
        self._limit, self._below = limit, below

    def lock(self, state: MeasuredState) -> Tensor:
        return super().lock(state) & ((state.uncertainty < self._limit) == self._below)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlocking:
    """When a locked position is unlocked (paper, appendix M, with numbers of our own: it prints none).

    Attributes:
        by, threshold: it unlocks if it moved by more since it was last computed: the divergence of its posterior in
            nats, or the larger relative change of its keys and values in any layer.
        period: locked positions are probed, which is computed, in steps that are multiples of it.
        min_locked: probed only if locked for more than this many steps (the paper's D_interval).
        cool_down: not locked again for this many steps after it was unlocked (D_cool).
        strictness: factor of epsilon from then on (rho).
    """

    by: Literal["kl", "drift"]
    threshold: float
    period: int = 8
    min_locked: int = 4
    cool_down: int = 4
    strictness: float = 0.5


class UnlockOnDrift(Policy):
    """The engine's rule, and what moved since it was locked is unlocked."""

    revisits = True

    def __init__(self, lock: LockParams, unlocking: Unlocking) -> None:
        self.needs_drift = unlocking.by == "drift"
        self._lock = lock
        self._rule = ByKL(lock)
        self._strict = ByKL(replace(lock, kl_threshold=lock.kl_threshold * unlocking.strictness))
        self._unlocking = unlocking
        self._probed: Tensor | None = None
        self._unlocked_at: Tensor | None = None
        # Logits that locked positions had when they were last computed.
        self._posteriors: Tensor | None = None

    def refresh(self, state: MeasuredState) -> Tensor:
        old = state.locked & (state.step - state.locked_at > self._unlocking.min_locked)
        self._probed = old if state.step % self._unlocking.period == 0 else torch.zeros_like(old)
        return self._probed

    def lock(self, state: MeasuredState) -> Tensor:
        if self._unlocked_at is None:
            self._unlocked_at = torch.zeros_like(state.locked_at)
        rested = state.step - self._unlocked_at > self._unlocking.cool_down
        found = torch.where(self._unlocked_at > 0, self._strict.lock(state) & rested, self._rule.lock(state))
        self._keep(state, found)
        return found

    def tested(self, state: MeasuredState) -> Tensor:
        where = self._rule.tested(state)
        return where if self._probed is None or self._unlocking.by == "drift" else where | self._probed

    def unlock(self, state: MeasuredState) -> Tensor:
        assert self._unlocked_at is not None, "lock comes first"
        if self._probed is None:
            return torch.zeros_like(state.locked)
        found = self._probed & (self._moved(state) > self._unlocking.threshold)
        if self._lock.confidence_percentile is not None:
            of_candidates = torch.where(state.candidates, state.uncertainty, torch.nan)
            limit = of_candidates.nanquantile(self._lock.confidence_percentile / 100, dim=1, keepdim=True)
            # Without candidates there is no limit.
            found &= state.uncertainty > limit.nan_to_num(-1.0)
        self._keep(state, self._probed)
        self._unlocked_at = torch.where(found, state.step, self._unlocked_at).int()
        return found

    def _moved(self, state: MeasuredState) -> Tensor:
        assert self._probed is not None
        if self._unlocking.by == "drift":
            assert state.drift is not None, "the decoder measures drift"
            return torch.maximum(state.drift.keys_frozen, state.drift.values_frozen).amax(0).nan_to_num(0.0)
        assert self._posteriors is not None, "lock comes first"
        moved = torch.zeros_like(state.kl)
        if bool(self._probed.any()):
            moved[self._probed] = kl_from_logits(state.logits[self._probed], self._posteriors[self._probed]).kl
        return moved

    def _keep(self, state: MeasuredState, where: Tensor) -> None:
        if self._unlocking.by == "kl":
            before = state.logits if self._posteriors is None else self._posteriors
            self._posteriors = torch.where(where.unsqueeze(2), state.logits, before)


def finite_horizon(epsilon: float) -> Schedule:
    """epsilon_t = epsilon / (T - t)^2: the more steps are left in which a frozen row is read, the stricter."""
    return lambda state: _everywhere(state, epsilon / (state.num_steps - state.step) ** 2)


def masks_left(epsilon: float, kappa: float) -> Schedule:
    """epsilon_t = epsilon min(1, (kappa / masks left)^2)."""
    return lambda state: epsilon * (kappa / state.masked.sum(1).clamp_min(1).double()).clamp_max(1.0) ** 2


def _everywhere(state: MeasuredState, epsilon: float) -> Tensor:
    return torch.full((len(state.tokens),), epsilon, dtype=torch.float64, device=state.tokens.device)
