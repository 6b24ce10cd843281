"""How many tokens each step commits: the official LLaDA schedule, with blocks that need not divide anything."""

from __future__ import annotations

from dataclasses import dataclass

from surelock.params import SamplingParams


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """One semi-autoregressive block, in canvas positions: candidates are the masked ones before `end` (exclusive).

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


def quota(num_masked: int, num_steps: int, index: int) -> int:
    """Tokens committed by the 0-based step `index` of a block that starts with num_masked masks.

    Even shares, the first steps taking what is left over; 0 once there are more steps than masks (an idle step).
    """
    return num_masked // num_steps + (1 if index < num_masked % num_steps else 0)


def plan(params: SamplingParams, prompt_length: int, num_gaps: int) -> Schedule:
    """Blocks of a canvas of prompt_length positions, num_gaps of them masked, followed by max_tokens masks.

    Gaps of the prompt are decoded with the first block. With `steps=None` every step commits one token.
    """
    total = params.max_tokens
    length = params.block_length or total or 1
    starts = range(0, max(total, 1), length)
    ends = [prompt_length + min(start + length, total) for start in starts]
    num_blocks = len(ends)
    # The official sampler counts a block's own masks only, so gaps take from its share and masks may be left.
    counts_gaps = total == 0 or not params.allow_mask
    notes: tuple[str, ...] = ()
    if params.steps is None:
        steps = [end - prompt_length - start for start, end in zip(starts, ends, strict=True)]
        steps[0] += num_gaps if counts_gaps else 0
    else:
        num_steps = max(params.steps, num_blocks)
        steps = [num_steps // num_blocks + (1 if b < num_steps % num_blocks else 0) for b in range(num_blocks)]
        if num_steps > params.steps:
            notes = (f"steps raised from {params.steps} to {num_steps}: each of the {num_blocks} blocks needs one",)
    counted_from = [0 if counts_gaps else prompt_length + start for start in starts]
    return Schedule(tuple(map(BlockPlan, counted_from, ends, steps)), notes)
