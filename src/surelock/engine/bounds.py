"""What the host knows of a step's size without asking the device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surelock.decoding.schedule import Schedule, quota
from surelock.decoding.step import Capacity, StepKind

if TYPE_CHECKING:
    from surelock.engine.request import Request


@dataclass(frozen=True, slots=True)
class MaskBounds:
    """Bounds of one request's masks in step t, at index t - 1.

    They are exact, since every step commits its whole quota, unless MASK itself may be proposed.

    Attributes:
        proposed: masks that may get their token are no more.
        left: masks in the whole canvas, as the step begins, are no fewer.
    """

    proposed: list[int]
    left: list[int]

    @classmethod
    def of(cls, schedule: Schedule, num_prompt: int, num_gaps: int, allow_mask: bool) -> MaskBounds:
        """Of a canvas of num_prompt positions, num_gaps of them masked, and the masks appended to it."""
        bounds = cls([], [])
        left = num_gaps + schedule.blocks[-1].end - num_prompt
        before, end = num_gaps, num_prompt
        for block in schedule.blocks:
            before, end = before + block.end - end, block.end
            num_block_masks = before
            for index in range(block.num_steps):
                num = 0 if allow_mask else quota(num_block_masks, block.num_steps, index)
                bounds.proposed.append(before if num or allow_mask else 0)
                bounds.left.append(0 if allow_mask else left)
                before, left = before - num, left - num
        return bounds


def step_kind(running: Iterable[Request]) -> StepKind:
    """Which parts of the step that was launched last these requests need."""
    running = list(running)
    locks = [request.lock for request in running if request.tests_locks]
    return StepKind(
        policies=frozenset(request.params.unmasking for request in running),
        may_sample=any(request.params.temperature > 0 for request in running),
        may_lock=bool(locks),
        has_gate=any(lock.confidence_percentile is not None for lock in locks),
        measures_late=any(
            lock.min_visible_steps == 0 or (lock.confidence_percentile is not None and lock.gate_scope == "active")
            for lock in locks
        ),
    )


def step_capacity(running: Iterable[Request], kind: StepKind) -> Capacity:
    """Rows that the step launched last needs room for, unconditional streams not counted."""
    rows = proposed = tested = 0
    for request in running:
        index = request.num_launched - 1
        own = request.num_rows_bound // request.num_streams
        rows += own
        proposed += request.bounds.proposed[index]
        # Before the second step there is nothing to compare with.
        if request.tests_locks and index > 0:
            tested += own if kind.measures_late else own - request.bounds.left[index]
    return Capacity(rows, proposed, tested)
