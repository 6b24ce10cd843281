"""One denoising step over a batch of canvases: SureLock's Algorithm 1 (arXiv 2602.06412), its line numbers kept.

    6       rows = active positions, masked and unmasked alike
    7-14    one forward of the rows; their keys and values are overwritten in place, nobody else's are
    15      posteriors, only of the rows that need one
    16      the unmasking policy commits tokens
    17-19   D = KL(p_t || p_{t-1}) and u = 1 - max p of the rows that may lock; no D on a request's first step
    20      candidates: active, unmasked and visible
    21-23   the locking rule locks some of them
    24-25   nothing to do: a locked row's keys and values stay where they are because nobody writes there any more

`compute` is lines 6 to 14 and `decide` the rest. Given a `Capacity`, neither ever waits for the device, so both can be
captured as CUDA graphs. `forward` is an argument, so a step runs in tests against a scripted model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from surelock.decoding.canvas import Canvas, Mask, PositionState
from surelock.decoding.packing import cells_of
from surelock.decoding.posterior import Tested, posteriors
from surelock.decoding.proposal import RowParams
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
from surelock.ops.step_kl import StepKL, step_kl


class Forward(Protocol):
    """Runs the model over rows of a canvas."""

    def __call__(self, canvas: Canvas, cells: Tensor) -> Tensor:
        """Final hidden rows [R, d] of cells [R] in rising order, the last of which may pad; guided if asked."""
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
class StepKind:
    """Which parts of a step any request of the batch needs. Known on the host, so that no step asks the device.

    Attributes:
        policies: names of the unmasking policies in use.
        may_sample: a temperature is above 0.
        may_lock: a request may lock in this step.
        has_gate: one of those has a confidence gate.
        measures_late: rows other than those that were candidates before the forward may need measuring, because a token
            committed now may lock now or a percentile is over all active rows.
    """

    policies: frozenset[str] = frozenset({"low_confidence"})
    may_sample: bool = False
    may_lock: bool = True
    has_gate: bool = False
    measures_late: bool = False


@dataclass(frozen=True, slots=True)
class Capacity:
    """Rows that a step has room for; None: exactly as many as there are, which waits for the device to count them.

    Attributes:
        rows: computed. `proposed`: that may get a token. `tested`: that may lock.
    """

    rows: int | None = None
    proposed: int | None = None
    tested: int | None = None


EXACT = Capacity()


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What this step is for each of the S slots; tensors [S].

    Attributes:
        kind: what the host knows.
        step: int64, 1-based.
        counted_from, block_end: int64, positions between which the block's masks lie when it begins; those before
            block_end may be committed.
        block_steps, block_index: int64, steps of the block, and which of them this is, from 0.
        tests_locks: bool, whether this step may lock: never on the last one, whose output is already fixed.
        seed: int64. `temperature`: float64. `allow_mask`: bool.
        policy: {name of an unmasking policy in use: bool [S]}.
        lock: the locking rule's numbers.
    """

    kind: StepKind
    step: Tensor
    counted_from: Tensor
    block_end: Tensor
    block_steps: Tensor
    block_index: Tensor
    tests_locks: Tensor
    seed: Tensor
    temperature: Tensor
    allow_mask: Tensor
    policy: Mapping[str, Tensor]
    lock: LockNumbers


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step found and has written to the canvas. Dense [S, L] unless said otherwise.

    Attributes:
        rows: positions computed.
        committed: positions that got their token, whose probability is `confidence`.
        kl: +inf where not measured.
        locked: positions locked now.
        counts: int64 [8, S], see `StepCounts`.
    """

    rows: Mask
    committed: Mask
    confidence: Tensor
    kl: Tensor
    locked: Mask
    counts: Tensor


@dataclass(frozen=True, slots=True)
class StepCounts:
    """One slot's column of `StepResult.counts`.

    Attributes:
        num_rows: positions computed. `num_active`: that will be in the next step.
        num_proposed, num_scored: rows whose logits were computed to choose a token, and to test for locking.
        num_gate_blocked: rows that passed the divergence test but not the confidence gate.
        num_generated_locks: locks outside the prompt. `num_ghosts`: those whose token was never an input.
        failed: the model's output was not finite.
    """

    num_rows: int
    num_active: int
    num_proposed: int
    num_scored: int
    num_generated_locks: int
    num_ghosts: int
    num_gate_blocked: int
    failed: int


def denoise_step(
    canvas: Canvas, plan: StepPlan, method: Method, forward: Forward, capacity: Capacity = EXACT
) -> StepResult:
    """One step of every slot; the canvas is changed in place, and keys and values by `forward`."""
    compute(canvas, method.selector, forward, capacity.rows)
    return decide(canvas, plan, method, capacity)


def compute(canvas: Canvas, selector: RowSelector, forward: Forward, num_rows: int | None) -> None:
    """Lines 6 to 14: bring the hidden rows of the active positions up to date."""
    cells = cells_of(selector.select(canvas), num_rows)
    hidden = forward(canvas, cells)
    canvas.flat_previous[cells] = canvas.flat_hidden[cells]
    canvas.flat_hidden[cells] = hidden


def decide(canvas: Canvas, plan: StepPlan, method: Method, capacity: Capacity) -> StepResult:
    """Lines 15 to 25: commit tokens and lock positions, from the hidden rows that `compute` left."""
    kind = plan.kind
    rows, masked = method.selector.select(canvas), canvas.masked
    canvas.age += rows & ~masked
    before_end = torch.arange(canvas.length, device=rows.device) < plan.block_end.unsqueeze(1)
    quota = _quota(canvas, plan, masked & before_end)
    eligible = rows & masked & before_end & (quota > 0).unsqueeze(1)
    may_lock = _may_lock(canvas, plan, rows) if kind.may_lock else None
    # Most rows to test are known by now: those that were candidates before this step commits anything.
    tests_early = may_lock is not None and not kind.measures_late and method.locking.needs_scores
    measured = may_lock.settled if may_lock is not None and tests_early else torch.zeros_like(rows)
    # 15, and 17-19 of those rows
    proposal, scores = _posteriors(canvas, eligible, measured if tests_early else None, plan, method, capacity)
    canvas.failed |= proposal.confidence.isnan().any(1)
    healthy = ~canvas.failed.unsqueeze(1)
    # 16
    chosen = torch.zeros_like(rows)
    for name, slots in plan.policy.items():
        chosen |= method.policies[name].select(proposal, eligible & slots.unsqueeze(1), quota)
    committed = chosen & (proposal.token != method.mask_token_id) & healthy

    # 17-19
    def measure(where: Mask) -> Scores:
        nonlocal measured, scores
        if may_lock is not None and not tests_early:
            measured = where & may_lock.has_previous
            cells = cells_of(measured, capacity.tested)
            found = step_kl(canvas.flat_hidden[cells], canvas.flat_previous[cells], method.head)
            scores = _scores(canvas, cells, found)
        return scores

    # 20-23
    if may_lock is not None:
        candidates = may_lock.visible & (~masked | committed) & healthy
        view = LockView(candidates, rows, canvas.age, canvas.given, plan.step)
        decision = method.locking.evaluate(view, plan.lock, measure)
    else:
        decision = LockDecision(torch.zeros_like(rows), torch.zeros_like(plan.step))
    locked = decision.locked

    step = plan.step.unsqueeze(1).int()
    torch.where(committed, proposal.token, canvas.tokens, out=canvas.tokens)
    canvas.state.masked_fill_(committed, int(PositionState.UNMASKED)).masked_fill_(locked, int(PositionState.LOCKED))
    torch.where(locked, step, canvas.locked_at, out=canvas.locked_at)
    torch.where(rows, step, canvas.computed_at, out=canvas.computed_at)
    generated = locked & ~canvas.given
    masks = torch.stack((rows, canvas.active, eligible, measured, generated, generated & (canvas.age == 0)))
    # In the order of StepCounts.
    counts = torch.cat((masks.sum(2), torch.stack((decision.num_gate_blocked, canvas.failed.long()))))
    return StepResult(rows, committed, proposal.confidence, scores.kl, locked, counts)


@dataclass(frozen=True, slots=True)
class _MayLock:
    """Rows that may lock once they are unmasked: `visible` long enough; and those among them whose divergence is known
    to be wanted before anything is committed: unmasked, with a posterior of the preceding step.
    """

    visible: Mask
    has_previous: Mask
    settled: Mask


def _may_lock(canvas: Canvas, plan: StepPlan, rows: Mask) -> _MayLock:
    visible = rows & (canvas.age >= plan.lock.min_visible_steps.unsqueeze(1)) & plan.tests_locks.unsqueeze(1)
    has_previous = canvas.computed_at == plan.step.unsqueeze(1) - 1
    return _MayLock(visible, has_previous, visible & has_previous & canvas.unmasked)


def _quota(canvas: Canvas, plan: StepPlan, masked_before_end: Mask) -> Tensor:
    """Tokens to commit [S] (`schedule.quota`), from the masks the block began with, which are counted as it begins."""
    inside = torch.arange(canvas.length, device=canvas.device) >= plan.counted_from.unsqueeze(1)
    num_masks = (masked_before_end & inside).sum(1)
    torch.where(plan.block_index == 0, num_masks, canvas.block_masks, out=canvas.block_masks)
    # A slot without a request has no steps.
    num_steps = plan.block_steps.clamp_min(1)
    return canvas.block_masks // num_steps + (plan.block_index < canvas.block_masks % num_steps)


def _posteriors(
    canvas: Canvas, eligible: Mask, tested: Mask | None, plan: StepPlan, method: Method, capacity: Capacity
) -> tuple[Proposal, Scores]:
    """Proposals of the eligible positions and scores of the tested ones, dense.

    Confidence is NaN where the logits are not finite.
    """
    cells = cells_of(eligible, capacity.proposed)
    # Rows that pad take the numbers of the last slot.
    slot, position = (cells // canvas.length).clamp_max(canvas.num_slots - 1), cells % canvas.length
    allow_mask = plan.allow_mask[slot]
    if plan.kind.may_sample:
        rows = RowParams(plan.seed[slot], plan.step[slot], position, plan.temperature[slot], allow_mask)
    else:
        # Nobody reads what a greedy row would be sampled with.
        rows = RowParams(position, position, position, position, allow_mask)
    token, confidence = torch.zeros_like(canvas.flat_tokens), _full(canvas, -torch.inf)
    tested_cells = cells[:0] if tested is None else cells_of(tested, capacity.tested)
    token[cells], confidence[cells], found = posteriors(
        canvas.flat_hidden[cells],
        rows,
        Tested(canvas.flat_hidden[tested_cells], canvas.flat_previous[tested_cells]),
        method.head,
        method.mask_token_id,
        may_sample=plan.kind.may_sample,
    )
    proposal = Proposal(_dense(canvas, token), _dense(canvas, confidence), plan.seed, plan.step)
    return proposal, _scores(canvas, tested_cells, found)


def _scores(canvas: Canvas, cells: Tensor, found: StepKL) -> Scores:
    """What was found of cells [m], dense."""
    kl, uncertainty = _full(canvas, torch.inf), _full(canvas, torch.inf)
    kl[cells], uncertainty[cells] = found
    return Scores(_dense(canvas, kl), _dense(canvas, uncertainty))


def _full(canvas: Canvas, value: float) -> Tensor:
    """float32 [S L + 1]."""
    return torch.full((canvas.pad + 1,), value, device=canvas.device)


def _dense(canvas: Canvas, flat: Tensor) -> Tensor:
    return flat[:-1].view(canvas.num_slots, canvas.length)
