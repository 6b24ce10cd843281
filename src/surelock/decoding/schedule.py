"""Blocks and quotas: the official LLaDA schedule, with blocks that need not divide anything.

`Blocks` and `quota` take Python integers, one request at a time, or int64 tensors [S], a batch on the device: the
arithmetic of a step is written once. What does not change from block to block is worked out when a request starts, so
that a step on the device is few operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import torch
from torch import Tensor

from surelock.params import MAX_STEPS, MAX_TOKENS, SamplingParams

Count = TypeVar("Count", int, Tensor)

# More masks or steps than there can be.
_ENDLESS: Final = MAX_STEPS + MAX_TOKENS


@dataclass(frozen=True, slots=True)
class Blocks(Generic[Count]):
    """Where the semi-autoregressive blocks of a request lie, and how they share its steps. They count from 0.

    Attributes:
        num: blocks there are, at least 1.
        first: position after which the first one begins. `length`: of each; the last one ends at `last_end`.
        counted_from: position from which the masks of the first block are counted when it begins; of each later one
            `counted_step` positions further.
        share: steps of a block, one more for the first `num_longer`. `idle`: how many of them may commit nothing.
    """

    num: Count
    first: Count
    length: Count
    last_end: Count
    counted_from: Count
    counted_step: Count
    share: Count
    num_longer: Count
    idle: Count

    def end(self, block: Count) -> Count:
        """Position, exclusive, before which masks may be committed in this block."""
        return _least(self.first + (block + 1) * self.length, self.last_end)

    def start_of_count(self, block: Count) -> Count:
        """Position from which this block's masks are counted when it begins."""
        return self.counted_from + block * self.counted_step

    def num_steps(self, block: Count, num_masks: Count) -> Count:
        """Steps of this block, which begins with num_masks masks, at least 1."""
        return _at_least_1(_least(self.share + (block < self.num_longer), num_masks + self.idle))


def blocks_of(params: SamplingParams, num_prompt: int) -> Blocks[int]:
    """The blocks of one request, whose prompt part is num_prompt positions, gaps included."""
    appended = params.max_tokens
    length = params.block_length or max(appended, 1)
    num = max(1, -(-appended // length))
    share, num_longer = divmod(max(params.steps or 0, num), num)
    if params.steps is None:
        # As many as there are masks, which commits one a step.
        share, num_longer = _ENDLESS, 0
    # The official sampler runs its idle steps, and counts a block's own masks only: gaps take from their share.
    counts_own = params.allow_mask and appended > 0
    return Blocks(
        num=num,
        first=num_prompt,
        length=length,
        last_end=num_prompt + appended,
        counted_from=num_prompt if counts_own else 0,
        counted_step=length if counts_own else 0,
        share=share,
        num_longer=num_longer,
        idle=_ENDLESS if params.allow_mask and params.steps is not None else 0,
    )


def quota(num_masks: Count, num_steps: Count, index: Count) -> Count:
    """Tokens committed by step `index`, from 0, of the num_steps of a block that begins with num_masks masks.

    Even shares, the first steps taking what is left over; 0 once there are more steps than masks (an idle step).
    """
    return num_masks // num_steps + (index < num_masks % num_steps)


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """One block in canvas positions: candidates are the masked ones before `end` (exclusive).

    Its steps share out the masks that lie from `counted_from` to `end` when the block begins.
    """

    counted_from: int
    end: int
    num_steps: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """The blocks of one request, its number of steps, and what had to be adjusted."""

    blocks: tuple[BlockPlan, ...]
    notes: tuple[str, ...] = ()

    @property
    def num_steps(self) -> int:
        """Forwards the request will run."""
        return sum(block.num_steps for block in self.blocks)

    def locate(self, step: int) -> tuple[BlockPlan, int]:
        """Block of the 1-based step, and the 0-based step inside that block."""
        index = step - 1
        for block in self.blocks:
            if index < block.num_steps:
                return block, index
            index -= block.num_steps
        raise AssertionError(f"step {step} is beyond the schedule's {self.num_steps}")


def plan(params: SamplingParams, num_prompt: int, num_gaps: int) -> Schedule:
    """Blocks of a canvas of num_prompt positions, num_gaps of them masked, followed by max_tokens masks.

    Gaps of the prompt are decoded with the first block. With `steps=None` every step commits one token. Steps that
    would commit nothing are left out, except under `allow_mask`.
    """
    blocks = blocks_of(params, num_prompt)
    planned, before = [], num_prompt
    for block in range(blocks.num):
        end, counted_from = blocks.end(block), blocks.start_of_count(block)
        num_masks = end - before + (num_gaps if block == counted_from == 0 else 0)
        # A canvas without a mask has nothing to do.
        num_steps = blocks.num_steps(block, num_masks) if num_masks else 0
        planned.append(BlockPlan(counted_from, end, num_steps))
        before = end
    schedule = Schedule(tuple(planned))
    notes = []
    if params.steps is not None and params.steps < blocks.num:
        notes.append(f"steps raised from {params.steps} to {blocks.num}: each of the {blocks.num} blocks needs one")
    elif params.steps is not None and schedule.num_steps < params.steps:
        idle = params.steps - schedule.num_steps
        notes.append(f"{idle} of {params.steps} steps would have nothing to commit and are not run")
    return Schedule(schedule.blocks, tuple(notes))


def _least(a: Count, b: Count) -> Count:
    return torch.minimum(a, b) if isinstance(a, Tensor) else min(a, b)


def _at_least_1(count: Count) -> Count:
    return count.clamp_min(1) if isinstance(count, Tensor) else max(count, 1)
