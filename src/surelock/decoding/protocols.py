"""The three questions a decoding method answers, and the values the answers are made from.

A published method is a triple of these. Policies are frozen dataclasses with one pure function: masks in, a sub-mask
out, for all requests of a batch at once. Everything a policy may depend on is in its arguments, so requests can join
and leave the batch at any step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from torch import Tensor

from surelock.decoding.canvases import Canvases, Mask


@dataclass(frozen=True, slots=True)
class Proposal:
    """What this step would write. Dense [S, L]; only meaningful where logits were computed.

    Attributes:
        token: int64, the proposed token.
        confidence: float32, its probability under the raw softmax; -inf where no logits were computed.
        seed, step: int64 [S], the keys of the request's random numbers.
    """

    token: Tensor
    confidence: Tensor
    seed: Tensor
    step: Tensor


class GateScopeCode(IntEnum):
    """`params.GateScope` in a tensor."""

    CANDIDATES = 0
    ACTIVE = 1
    KL_PASSING = 2


@dataclass(frozen=True, slots=True)
class LockNumbers:
    """`LockParams` of the S requests, as tensors [S].

    Attributes:
        kl_threshold: float64; negative never locks.
        percentile: float64; NaN where the gate is off.
        gate_scope: int64, a `GateScopeCode`.
        min_visible_steps: int64. `kl_both_visible`: bool.
        prompt_lock_step: int64; 0 where there is no prompt rule. `refresh`: int64; 0 where there is none.
        has_gate: whether any of the S has one, known on the host.
    """

    kl_threshold: Tensor
    percentile: Tensor
    gate_scope: Tensor
    min_visible_steps: Tensor
    kl_both_visible: Tensor
    prompt_lock_step: Tensor
    refresh: Tensor
    has_gate: bool

    @property
    def locks(self) -> Tensor:
        """bool [S], whether a position of the slot may ever lock."""
        return self.kl_threshold >= 0

    def refreshes(self, step: Tensor) -> Tensor:
        """bool [S], whether locked positions are computed in this 1-based step."""
        return (self.refresh > 0) & (step % self.refresh.clamp_min(1) == 0)

    @property
    def measures_late(self) -> Tensor:
        """bool [S], whether rows other than those that were candidates before the forward may need measuring.

        A token committed now may lock now, or a percentile is over all active rows.
        """
        is_over_active = self.percentile.isfinite() & (self.gate_scope == GateScopeCode.ACTIVE)
        return (self.min_visible_steps == 0) | is_over_active


@dataclass(frozen=True, slots=True)
class Scores:
    """How far posteriors moved, and how sure they are. Dense [S, L] float32, +inf where nothing was measured.

    Attributes:
        kl: KL(p_t || p_{t-1}) in nats; +inf also where there is no posterior of the preceding step.
        uncertainty: 1 - max p_t.
    """

    kl: Tensor
    uncertainty: Tensor


@dataclass(frozen=True, slots=True)
class LockView:
    """What a locking rule sees of the canvases. Dense [S, L].

    Attributes:
        candidates: bool, positions it may lock: active, unmasked and visible.
        rows: bool, positions computed in this step.
        age: int32, forwards done with the real token as input, this step's included.
        given: bool, prompt positions.
        step: int64 [S], 1-based.
    """

    candidates: Mask
    rows: Mask
    age: Tensor
    given: Mask
    step: Tensor


@dataclass(frozen=True, slots=True)
class LockDecision:
    """Positions to lock [S, L], and how many passed the KL test but were held back by the confidence gate [S]."""

    locked: Mask
    num_gate_blocked: Tensor


class RowSelector(Protocol):
    """Which active positions are computed in this step."""

    def select(self, canvas: Canvases) -> Mask:
        """A subset of canvas.active."""
        ...


class UnmaskingPolicy(Protocol):
    """Which masked positions get their token in this step."""

    def select(self, proposal: Proposal, candidates: Mask, quota: Tensor) -> Mask:
        """A subset of candidates, at most quota [S] in each row."""
        ...


class LockingRule(Protocol):
    """Which active unmasked positions stop being computed."""

    @property
    def needs_scores(self) -> bool:
        """Whether it measures anything; only then are rows measured together with those that choose tokens."""
        ...

    def evaluate(self, view: LockView, numbers: LockNumbers, measure: Callable[[Mask], Scores]) -> LockDecision:
        """Lock a subset of view.candidates.

        measure(where) gives the scores of a subset of the candidates, or of view.rows where a gate's scope is `active`.
        Every row measured costs logits, so a rule that needs none does not call it; no rule calls it twice. More rows
        than asked for may have scores.
        """
        ...
