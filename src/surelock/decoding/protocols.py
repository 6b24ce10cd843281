"""The three questions a decoding method answers, and the values the answers are made from.

A published method is a triple of these. Policies are frozen dataclasses with one pure function: masks in, a sub-mask
out, for all requests of a batch at once. Everything a policy may depend on is in its arguments, so requests can join
and leave the batch at any step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from surelock.decoding.canvas import Canvas, Mask


@dataclass(frozen=True, slots=True)
class Proposal:
    """What this step would write. Dense [S, L]; only meaningful where logits were computed.

    Attributes:
        token: int64, the proposed token.
        confidence: float32, its probability under the raw softmax; -inf where no logits were computed.
        noise: float64, uniform in (0, 1), keyed by (seed, step, position).
    """

    token: Tensor
    confidence: Tensor
    noise: Tensor


@dataclass(frozen=True, slots=True)
class LockNumbers:
    """`LockParams` of the S requests, as tensors [S].

    Attributes:
        kl_threshold: float64; negative never locks.
        percentile: float64; NaN where the gate is off.
        gate_scope: int64 index into `params.GateScope`'s choices.
        min_visible_steps: int64. `kl_both_visible`: bool.
        prompt_lock_step: int64; 0 where there is no prompt rule.
    """

    kl_threshold: Tensor
    percentile: Tensor
    gate_scope: Tensor
    min_visible_steps: Tensor
    kl_both_visible: Tensor
    prompt_lock_step: Tensor


@dataclass(frozen=True, slots=True)
class Scores:
    """What a locking rule sees. Dense [S, L].

    Attributes:
        kl: float32, KL(p_t || p_{t-1}) in nats; +inf where there is no posterior of the preceding step.
        uncertainty: float32, 1 - max p_t; +inf where it was not computed.
        age: int32, forwards done with the real token as input, this step's included.
        given: bool, prompt positions.
        rows: bool, positions computed in this step.
        step: int64 [S], 1-based.
    """

    kl: Tensor
    uncertainty: Tensor
    age: Tensor
    given: Mask
    rows: Mask
    step: Tensor


@dataclass(frozen=True, slots=True)
class LockDecision:
    """Positions to lock [S, L], and how many passed the KL test but were held back by the confidence gate [S]."""

    locked: Mask
    num_gate_blocked: Tensor


class RowSelector(Protocol):
    """Which active positions are computed in this step."""

    def select(self, canvas: Canvas) -> Mask:
        """A subset of canvas.active."""
        ...


class UnmaskingPolicy(Protocol):
    """Which masked positions get their token in this step."""

    def select(self, proposal: Proposal, candidates: Mask, quota: Tensor) -> Mask:
        """A subset of candidates, at most quota [S] in each row."""
        ...


class LockingRule(Protocol):
    """Which active unmasked positions stop being computed."""

    def scored_rows(self, candidates: Mask, rows: Mask, numbers: LockNumbers) -> Mask:
        """Rows whose posterior the rule wants to see: a superset of candidates within rows."""
        ...

    def evaluate(self, scores: Scores, candidates: Mask, numbers: LockNumbers) -> LockDecision:
        """Lock a subset of candidates."""
        ...
