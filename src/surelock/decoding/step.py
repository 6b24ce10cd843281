"""One denoising step over a batch of canvases: SureLock's Algorithm 1 (arXiv 2602.06412), its line numbers kept.

    6       rows = active positions, masked and unmasked alike
    7-14    one forward of the rows; their keys and values are overwritten in their slots, nobody else's are
    15      posteriors, only of the rows that need one
    16      the unmasking policy commits tokens
    17-19   D = KL(p_t || p_{t-1}) and u = 1 - max p of the rows that may lock; no D on a request's first step
    20      candidates: active, unmasked and visible
    21-23   the locking rule locks some of them
    24-25   nothing to do: a locked row's keys and values stay where they are because nobody writes there any more

`forward` is an argument, so a step runs in tests against a scripted model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from surelock.decoding.canvas import Canvas, Mask, PositionState
from surelock.decoding.proposal import RowParams, propose
from surelock.decoding.protocols import (
    LockDecision,
    LockingRule,
    LockNumbers,
    LockView,
    Proposal,
    RowSelector,
    Scores,
    UnmaskingPolicy,
)
from surelock.ops.head_logits import Head
from surelock.ops.step_kl import step_kl


class Forward(Protocol):
    """Runs the model over the rows of a canvas."""

    def __call__(self, canvas: Canvas, rows: Tensor) -> Tensor:
        """Final hidden rows [R, d] of rows [R], positions of the flattened canvas in rising order; guided if asked."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """The kinds of policy a batch is decoded with, and what they need of the model."""

    selector: RowSelector
    policies: Mapping[str, UnmaskingPolicy]
    locking: LockingRule
    head: Head
    mask_token_id: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What this step is for each of the S slots; tensors [S].

    Attributes:
        step: int64, 1-based.
        block_end: int64, positions before it may be committed.
        quota: int64, tokens to commit.
        tests_locks: bool, whether this step may lock: never on the last one, whose output is already fixed.
        may_lock: whether any slot may, known on the host.
        measures_late: whether rows other than those that were candidates before the forward may need measuring, because
            a token committed now may lock now or a percentile is over all active rows. Known on the host.
        seed: int64. `temperature`: float64. `allow_mask`: bool.
        may_sample: whether any temperature is above 0, known on the host.
        policy: {name of the unmasking policy: bool [S]}, only those in use.
        lock: the locking rule's numbers.
    """

    step: Tensor
    block_end: Tensor
    quota: Tensor
    tests_locks: Tensor
    may_lock: bool
    measures_late: bool
    seed: Tensor
    temperature: Tensor
    may_sample: bool
    allow_mask: Tensor
    policy: Mapping[str, Tensor]
    lock: LockNumbers


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step found; `apply` writes it to the canvas. Dense [S, L] unless said otherwise.

    Attributes:
        rows: positions computed; `row_index`: [R] int64, the same in the flattened canvas, in rising order.
        hidden: [R, d], their final hidden rows.
        age: after this step's forward.
        committed: positions that got `token`; their probability is `confidence`.
        kl: +inf where not measured.
        locked: positions locked now.
        num_gate_blocked, num_proposed, num_scored: int64 [S]; the last two are rows whose logits were computed.
        failed: bool [S], the model's output was not finite.
    """

    rows: Mask
    row_index: Tensor
    hidden: Tensor
    age: Tensor
    committed: Mask
    token: Tensor
    confidence: Tensor
    kl: Tensor
    locked: Mask
    num_gate_blocked: Tensor
    num_proposed: Tensor
    num_scored: Tensor
    failed: Tensor


def denoise_step(canvas: Canvas, plan: StepPlan, method: Method, forward: Forward) -> StepResult:
    """Compute one step of every slot. The canvas is read, not written; `forward` overwrites keys and values."""
    # 6
    rows = method.selector.select(canvas)
    age = canvas.age + (rows & canvas.unmasked)
    position = torch.arange(canvas.length, device=rows.device)
    eligible = rows & canvas.masked & (position < plan.block_end.unsqueeze(1)) & (plan.quota > 0).unsqueeze(1)
    visible = age >= plan.lock.min_visible_steps.unsqueeze(1)
    tests_locks = plan.tests_locks.unsqueeze(1)
    has_previous = canvas.computed_at == plan.step.unsqueeze(1) - 1
    # Everything that waits for the device comes before the forward, so that what follows is launched while it runs.
    row_index, eligible_index = _index(rows), _index(eligible)
    settled = rows & canvas.unmasked & visible & tests_locks & has_previous
    settled_index = _index(settled) if plan.may_lock and not plan.measures_late else None
    # Of each position, which row it is; only meaningful where there is one.
    row_of = rows.flatten().cumsum(0) - 1
    # 7-14
    hidden = forward(canvas, row_index)
    # 15
    proposal, failed = _propose(hidden[row_of[eligible_index]], eligible_index, plan, method, canvas)
    # 16
    chosen = torch.zeros_like(eligible)
    for name, slots in plan.policy.items():
        chosen |= method.policies[name].select(proposal, eligible & slots.unsqueeze(1), plan.quota)
    committed = chosen & (proposal.token != method.mask_token_id) & ~failed.unsqueeze(1)
    # 20, before 17-19 because few rows but candidates need D and u
    candidates = rows & (canvas.unmasked | committed) & visible & tests_locks & ~failed.unsqueeze(1)
    kl = torch.full(rows.shape, torch.inf, device=rows.device)
    scored = torch.zeros_like(rows)

    # 17-19
    def measure(where: Mask) -> Scores:
        scored.copy_(where & has_previous if settled_index is None else settled)
        index = _index(scored) if settled_index is None else settled_index
        found = step_kl(hidden[row_of[index]], canvas.hidden.flatten(0, 1)[index], method.head)
        kl.view(-1)[index] = found.kl
        uncertainty = torch.full_like(kl, torch.inf)
        uncertainty.view(-1)[index] = found.uncertainty
        return Scores(kl, uncertainty)

    # 21-23
    if plan.may_lock:
        view = LockView(candidates, rows, age, canvas.given, plan.step)
        decision = method.locking.evaluate(view, plan.lock, measure)
    else:
        decision = LockDecision(torch.zeros_like(rows), torch.zeros_like(plan.step))
    return StepResult(
        rows=rows,
        row_index=row_index,
        hidden=hidden,
        age=age,
        committed=committed,
        token=proposal.token,
        confidence=proposal.confidence,
        kl=kl,
        locked=decision.locked,
        num_gate_blocked=decision.num_gate_blocked,
        num_proposed=eligible.sum(1),
        num_scored=scored.sum(1),
        failed=failed,
    )


def apply(canvas: Canvas, result: StepResult, step: Tensor) -> None:
    """Write what a step found to the canvas; step [S] is the 1-based number it had for each slot."""
    canvas.tokens = torch.where(result.committed, result.token, canvas.tokens)
    state = torch.where(result.committed, int(PositionState.UNMASKED), canvas.state)
    canvas.state = torch.where(result.locked, int(PositionState.LOCKED), state).to(torch.uint8)
    canvas.locked_at = torch.where(result.locked, step.unsqueeze(1).int(), canvas.locked_at)
    canvas.age = result.age
    canvas.hidden.view(-1, canvas.hidden.shape[2])[result.row_index] = result.hidden
    canvas.computed_at = torch.where(result.rows, step.unsqueeze(1).int(), canvas.computed_at)


def _index(mask: Mask) -> Tensor:
    """Positions of the flattened canvas where mask [S, L] is set. Waits for the device."""
    return mask.flatten().nonzero().squeeze(1)


def _propose(hidden: Tensor, index: Tensor, plan: StepPlan, method: Method, canvas: Canvas) -> tuple[Proposal, Tensor]:
    """Proposals of positions `index` [n] of the flattened canvas, whose hidden rows are [n, d], spread over [S, L].

    And the slots [S] whose logits are not finite.
    """
    slot, position = index // canvas.length, index % canvas.length
    rows = RowParams(plan.seed[slot], plan.step[slot], position, plan.temperature[slot], plan.allow_mask[slot])
    row_token, row_confidence = propose(hidden, method.head, rows, method.mask_token_id, may_sample=plan.may_sample)

    token = torch.zeros_like(canvas.tokens)
    confidence = torch.full(canvas.tokens.shape, -torch.inf, device=index.device)
    token.view(-1)[index] = row_token
    confidence.view(-1)[index] = row_confidence
    return Proposal(token, confidence, plan.seed, plan.step), confidence.isnan().any(1)
