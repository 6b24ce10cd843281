"""One denoising step over a batch of canvases: SureLock's Algorithm 1 (arXiv 2602.06412), its line numbers kept.

    6       rows = active positions, masked and unmasked alike
    7-14    one forward of the rows; their keys and values are overwritten in place, no others are
    15      posteriors, only of the rows that need one
    16      the unmasking policy commits tokens
    17-19   D = KL(p_t || p_{t-1}) and u = 1 - max p of the rows that may lock; no D on a request's first step
    20      candidates: active, unmasked and visible
    21-23   the locking rule locks some of them
    24-25   nothing to do: a locked row's keys and values stay where they are because nothing writes there any more,
            until a step that refreshes them

`compute` is lines 6 to 14 and `decide` the rest. `decide` also moves each slot on to its next step and ends with
`look_ahead`, which chooses and counts what that step will need: the canvas knows where every request is, and the host
only makes room. Given a `Capacity`, nothing here waits for the device, so all of it can be captured as CUDA graphs.
`forward` is an argument, so a step runs in tests against a scripted model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from surelock.decoding.canvases import Canvases, Mask, PositionState
from surelock.decoding.packing import cells_of
from surelock.decoding.posterior import HiddenPair, posteriors
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
from surelock.decoding.schedule import Blocks, quota
from surelock.ops.head_logits import Head
from surelock.ops.step_kl import StepKL, step_kl


class Forward(Protocol):
    """Runs the model over rows of a canvas."""

    def __call__(self, canvas: Canvases, cells: Tensor) -> Tensor:
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
        may_lock: a request may lock. `refreshes`: one of those computes locked positions once more now and then.
        has_gate: one of those has a confidence gate.
        measures_late: one of those is `LockNumbers.measures_late`.
    """

    policies: frozenset[str] = frozenset({"low_confidence"})
    may_sample: bool = False
    may_lock: bool = True
    refreshes: bool = False
    has_gate: bool = False
    measures_late: bool = False


@dataclass(frozen=True, slots=True)
class Capacity:
    """Rows that a step has room for; None: exactly as many as there are, which waits for the device to count them.

    Attributes:
        rows: computed. `guided`: those of them that have an unconditional stream.
        proposed: that may get a token. `tested`: that may lock.
    """

    rows: int | None = None
    guided: int | None = None
    proposed: int | None = None
    tested: int | None = None


EXACT = Capacity()


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The numbers of the S requests that do not change from step to step; tensors [S].

    Attributes:
        kind: what the host knows.
        blocks: int64, where their blocks lie.
        seed: int64. `temperature`: float64. `allow_mask`: bool.
        policy: {name of an unmasking policy in use: bool [S]}.
        lock: the locking rule's numbers.
    """

    kind: StepKind
    blocks: Blocks[Tensor]
    seed: Tensor
    temperature: Tensor
    allow_mask: Tensor
    policy: Mapping[str, Tensor]
    lock: LockNumbers


class StepCounts(NamedTuple):
    """What one step counted in one slot; in `StepResult.counts` a row of each name.

    Attributes:
        rows: positions computed.
        proposed, scored: rows whose logits were computed to choose a token, and to test for locking.
        generated_locks: locks outside the prompt. `ghosts`: those whose token was never an input.
        gate_blocked: rows that passed the divergence test but not the confidence gate.
        failed: the model's output was not finite. `done`: the request has all its tokens.
        next_rows, next_proposed, next_tested: what the next step needs room for. The last is an upper bound where
            requests are measured late, else the exact number, like the others.
    """

    rows: int
    proposed: int
    scored: int
    generated_locks: int
    ghosts: int
    gate_blocked: int
    failed: int
    done: int
    next_rows: int
    next_proposed: int
    next_tested: int


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step found and has written to the canvas. Dense [S, L] unless said otherwise.

    Attributes:
        committed: positions that got their token, whose probability is `confidence`.
        kl: +inf where not measured.
        locked: positions locked now.
        counts: int64 [len(StepCounts._fields), S].
    """

    committed: Mask
    confidence: Tensor
    kl: Tensor
    locked: Mask
    counts: Tensor


def denoise_step(
    canvas: Canvases, inputs: StepInputs, method: Method, forward: Forward, capacity: Capacity = EXACT
) -> StepResult:
    """One step of every slot; the canvas is changed in place, and keys and values by `forward`.

    A request that has just been put needs a `look_ahead` first.
    """
    compute(canvas, forward, capacity.rows)
    return decide(canvas, inputs, method, capacity)


def compute(canvas: Canvases, forward: Forward, num_rows: int | None) -> None:
    """Lines 6 to 14: bring the hidden rows that `look_ahead` chose up to date."""
    cells = cells_of(canvas.rows, num_rows)
    hidden = forward(canvas, cells)
    canvas.flat_previous[cells] = canvas.flat_hidden[cells]
    canvas.flat_hidden[cells] = hidden


def decide(canvas: Canvases, inputs: StepInputs, method: Method, capacity: Capacity) -> StepResult:
    """Lines 15 to 25: commit tokens and lock positions, from the hidden rows that `compute` left, and look ahead."""
    kind, rows, masked, step = inputs.kind, canvas.rows, canvas.masked, canvas.step + 1
    canvas.age += rows & ~masked
    # Most rows to test are known by now: those that were candidates before this step commits anything.
    tests_early = kind.may_lock and not kind.measures_late and method.locking.needs_scores
    measured = canvas.tested if tests_early else torch.zeros_like(rows)
    # 15, and 17-19 of those rows
    proposal, scores = _posteriors(canvas, step, measured if tests_early else None, inputs, method, capacity)
    canvas.failed |= proposal.confidence.isnan().any(1)
    healthy = ~canvas.failed.unsqueeze(1)
    # 16
    chosen = torch.zeros_like(rows)
    for name, slots in inputs.policy.items():
        chosen |= method.policies[name].select(proposal, canvas.eligible & slots.unsqueeze(1), canvas.quota)
    committed = chosen & (proposal.token != method.mask_token_id) & healthy
    _advance(canvas, masked & ~committed, inputs)

    # 17-19
    def measure(where: Mask) -> Scores:
        nonlocal measured, scores
        if not tests_early:
            # A row that may not be measured late must not be because others of its batch are.
            late = inputs.lock.measures_late.unsqueeze(1)
            has_previous = canvas.computed_at == step.unsqueeze(1) - 1
            measured = where & has_previous & (late | canvas.tested)
            cells = cells_of(measured, capacity.tested)
            found = step_kl(canvas.flat_hidden[cells], canvas.flat_previous[cells], method.head)
            scores = _scores(canvas, cells, found)
        return scores

    # 20-23; nothing locks in the last step, whose output is already fixed
    if kind.may_lock:
        active = rows & canvas.active if kind.refreshes else rows
        visible = active & (canvas.age >= inputs.lock.min_visible_steps.unsqueeze(1))
        may_lock = (inputs.lock.locks & ~canvas.done).unsqueeze(1)
        candidates = visible & (~masked | committed) & may_lock & healthy
        view = LockView(candidates, active, canvas.age, canvas.given, step)
        decision = method.locking.evaluate(view, inputs.lock, measure)
    else:
        decision = LockDecision(torch.zeros_like(rows), torch.zeros_like(step))
    locked = decision.locked

    at = step.unsqueeze(1).int()
    torch.where(committed, proposal.token, canvas.tokens, out=canvas.tokens)
    canvas.state.masked_fill_(committed, int(PositionState.UNMASKED)).masked_fill_(locked, int(PositionState.LOCKED))
    torch.where(locked, at, canvas.locked_at, out=canvas.locked_at)
    torch.where(rows, at, canvas.computed_at, out=canvas.computed_at)
    canvas.step.copy_(step)
    generated = locked & ~canvas.given
    found = torch.stack((rows, canvas.eligible, measured, generated, generated & (canvas.age == 0))).sum(2)
    flags = torch.stack((decision.num_gate_blocked, canvas.failed.long(), canvas.done.long()))
    counts = torch.cat((found, flags, look_ahead(canvas, inputs, method)))
    return StepResult(committed, proposal.confidence, scores.kl, locked, counts)


def look_ahead(canvas: Canvases, inputs: StepInputs, method: Method) -> Tensor:
    """Choose the rows of the next step, those that may get a token, and those that are tested for locking.

    Returns the last three of `StepCounts`, int64 [3, S]. Changes nothing if it is called again.
    """
    blocks, lock = inputs.blocks, inputs.lock
    rows, masked = method.selector.select(canvas), canvas.masked
    if inputs.kind.refreshes:
        rows |= canvas.locked & lock.refreshes(canvas.step + 1).unsqueeze(1)
    canvas.block_end.copy_(blocks.end(canvas.block))
    before_end = masked & (canvas.position < canvas.block_end.unsqueeze(1))
    num_masks = (before_end & (canvas.position >= blocks.start_of_count(canvas.block).unsqueeze(1))).sum(1)
    begins = canvas.block_step == 0
    torch.where(begins, num_masks, canvas.block_masks, out=canvas.block_masks)
    torch.where(begins, blocks.num_steps(canvas.block, num_masks), canvas.block_steps, out=canvas.block_steps)
    canvas.quota.copy_(quota(canvas.block_masks, canvas.block_steps, canvas.block_step))
    canvas.rows.copy_(rows)
    canvas.eligible.copy_(rows & before_end & (canvas.quota > 0).unsqueeze(1))
    if inputs.kind.may_lock and method.locking.needs_scores:
        # Under parity the official sampler's last steps may find nothing to commit.
        ends = (canvas.block + 1 == blocks.num) & (canvas.block_step + 1 >= canvas.block_steps)
        is_last = torch.where(inputs.allow_mask, ends, masked.sum(1) <= canvas.quota)
        tests = (lock.locks & ~is_last & (canvas.step > 0)).unsqueeze(1)
        settled = canvas.unmasked & (canvas.age + 1 >= lock.min_visible_steps.unsqueeze(1))
        canvas.tested.copy_(rows & settled & (canvas.computed_at == canvas.step.unsqueeze(1)) & tests)
        may_be_tested = torch.where(lock.measures_late.unsqueeze(1), rows & tests, canvas.tested)
    else:
        may_be_tested = canvas.tested.zero_()
    return torch.stack((rows, canvas.eligible, may_be_tested)).sum(2)


def _advance(canvas: Canvases, masked: Mask, inputs: StepInputs) -> None:
    """Move each slot to its next step, once tokens are committed and `masked` [S, L] is what is left."""
    is_committed = ~(masked & (canvas.position < canvas.block_end.unsqueeze(1))).any(1)
    canvas.block_step += 1
    # Under parity a block ends with its steps, whatever they left masked.
    is_over = torch.where(inputs.allow_mask, canvas.block_step >= canvas.block_steps, is_committed)
    canvas.block += is_over
    canvas.block_step.masked_fill_(is_over, 0)
    canvas.done |= canvas.block >= inputs.blocks.num


def _posteriors(
    canvas: Canvases, step: Tensor, tested: Mask | None, inputs: StepInputs, method: Method, capacity: Capacity
) -> tuple[Proposal, Scores]:
    """Proposals of the eligible positions and scores of the tested ones, dense.

    Confidence is NaN where the logits are not finite.
    """
    cells = cells_of(canvas.eligible, capacity.proposed)
    # Rows that pad take the numbers of the last slot.
    slot, position = (cells // canvas.length).clamp_max(canvas.num_slots - 1), cells % canvas.length
    allow_mask = inputs.allow_mask[slot]
    if inputs.kind.may_sample:
        rows = RowParams(inputs.seed[slot], step[slot], position, inputs.temperature[slot], allow_mask)
    else:
        # The noise of a greedy row is not read, so any number does.
        rows = RowParams(position, position, position, position, allow_mask)
    token, confidence = torch.zeros_like(canvas.flat_tokens), _full(canvas, -torch.inf)
    tested_cells = cells[:0] if tested is None else cells_of(tested, capacity.tested)
    token[cells], confidence[cells], found = posteriors(
        canvas.flat_hidden[cells],
        rows,
        HiddenPair(canvas.flat_hidden[tested_cells], canvas.flat_previous[tested_cells]),
        method.head,
        method.mask_token_id,
        may_sample=inputs.kind.may_sample,
    )
    proposal = Proposal(_dense(canvas, token), _dense(canvas, confidence), inputs.seed, step)
    return proposal, _scores(canvas, tested_cells, found)


def _scores(canvas: Canvases, cells: Tensor, found: StepKL) -> Scores:
    """What was found of cells [m], dense."""
    kl, uncertainty = _full(canvas, torch.inf), _full(canvas, torch.inf)
    kl[cells], uncertainty[cells] = found
    return Scores(_dense(canvas, kl), _dense(canvas, uncertainty))


def _full(canvas: Canvases, value: float) -> Tensor:
    """float32 [S L + 1]."""
    return torch.full((canvas.pad + 1,), value, device=canvas.device)


def _dense(canvas: Canvases, flat: Tensor) -> Tensor:
    return flat[:-1].view(canvas.num_slots, canvas.length)
