"""Blocks and quotas: the official LLaDA schedule, with blocks that need not divide anything.

`Blocks` and `quota` take Python integers, one request at a time, or int64 tensors [S], a batch on the device: the
arithmetic is written once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from surelock.params import SamplingParams

Count = TypeVar("Count", int, Tensor)


@dataclass(frozen=True, slots=True)
class Blocks(Generic[Count]):
    """Where the semi-autoregressive blocks of a request lie, and how they share its steps. They count from 0.

    Attributes:
        num_prompt: positions before the appended masks, gaps included. `num_appended`: those masks.
        length: positions of a block, at least 1; the last one may be shorter.
        steps: asked for; 0: every step commits one token.
        is_parity: 1 or 0, `SamplingParams.allow_mask`: the official sampler's idle steps are run, and it counts a
            block's own masks only, so that gaps take from their share and masks may be left.
    """

    num_prompt: Count
    num_appended: Count
    length: Count
    steps: Count
    is_parity: Count

    @property
    def num(self) -> Count:
        """Blocks there are, at least 1."""
        return _at_least_1(-(-self.num_appended // self.length))

    def end(self, block: Count) -> Count:
        """Position, exclusive, before which masks may be committed in this block."""
        missing = self.num_appended - (block + 1) * self.length
        return self.num_prompt + self.num_appended - missing * (missing > 0)

    def counted_from(self, block: Count) -> Count:
        """Position from which this block's masks are counted when it begins."""
        return (self.num_prompt + block * self.length) * self.is_parity * (self.num_appended > 0)

    def num_steps(self, block: Count, num_masks: Count) -> Count:
        """Steps of this block, which begins with num_masks masks: no more than those, except under parity."""
        num = self.num
        steps = self.steps + (num - self.steps) * (self.steps < num)
        share = steps // num + (block < steps % num)
        idle = (share - num_masks) * (share > num_masks) * (1 - self.is_parity)
        return _at_least_1(num_masks * (self.steps == 0) + (share - idle) * (self.steps > 0))


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


def blocks_of(params: SamplingParams, num_prompt: int) -> Blocks[int]:
    """The blocks of one request."""
    length = params.block_length or max(params.max_tokens, 1)
    return Blocks(num_prompt, params.max_tokens, length, params.steps or 0, int(params.allow_mask))


def plan(params: SamplingParams, num_prompt: int, num_gaps: int) -> Schedule:
    """Blocks of a canvas of num_prompt positions, num_gaps of them masked, followed by max_tokens masks.

    Gaps of the prompt are decoded with the first block. With `steps=None` every step commits one token. Steps that
    would commit nothing are left out, except under `allow_mask`.
    """
    blocks = blocks_of(params, num_prompt)
    planned, before = [], num_prompt
    for block in range(blocks.num):
        end, counted_from = blocks.end(block), blocks.counted_from(block)
        num_masks = end - before + (num_gaps if block == counted_from == 0 else 0)
        planned.append(BlockPlan(counted_from, end, blocks.num_steps(block, num_masks)))
        before = end
    schedule = Schedule(tuple(planned))
    notes = []
    if params.steps is not None and params.steps < blocks.num:
        notes.append(f"steps raised from {params.steps} to {blocks.num}: each of the {blocks.num} blocks needs one")
    elif params.steps is not None and schedule.num_steps < params.steps:
        idle = params.steps - schedule.num_steps
        notes.append(f"{idle} of {params.steps} steps would have nothing to commit and are not run")
    return Schedule(schedule.blocks, tuple(notes))


def _at_least_1(count: Count) -> Count:
    return count + (1 - count) * (count < 1)
