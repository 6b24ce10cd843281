"""The official schedule, uneven and idle steps included."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surelock.decoding.schedule import BlockPlan, Blocks, blocks_of, plan, quota
from surelock.params import SamplingParams


def commits(params: SamplingParams, prompt_length: int = 3, num_gaps: int = 0) -> list[list[int]]:
    """Tokens committed by each step of each block, all blocks starting full and gaps going to the first."""
    blocks = plan(params, prompt_length, num_gaps).blocks
    ends = [prompt_length, *(block.end for block in blocks)]
    masks = [stop - start for start, stop in pairwise(ends)]
    masks[0] += num_gaps
    return [
        [quota(num, block.num_steps, index) for index in range(block.num_steps)]
        for block, num in zip(blocks, masks, strict=True)
    ]


def test_uneven_shares_go_to_the_first_steps() -> None:
    assert commits(SamplingParams(max_tokens=24, steps=10, block_length=12)) == [[3, 3, 2, 2, 2], [3, 3, 2, 2, 2]]


def test_idle_steps_at_the_end_of_each_block_are_left_out_and_said() -> None:
    params = SamplingParams(max_tokens=4, steps=8, block_length=2)
    assert commits(params) == [[1, 1], [1, 1]]
    assert plan(params, 3, 0).notes == ("4 of 8 steps would have nothing to commit and are not run",)


def test_a_canvas_without_masks_has_no_steps() -> None:
    assert plan(SamplingParams(max_tokens=0), 5, 0).num_steps == 0


def test_parity_with_the_official_sampler_keeps_them() -> None:
    params = SamplingParams(max_tokens=4, steps=8, block_length=2, allow_mask=True)
    assert commits(params) == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert plan(params, 3, 0).notes == ()


def test_the_last_block_may_be_shorter_and_the_first_blocks_get_the_odd_steps() -> None:
    blocks = plan(SamplingParams(max_tokens=10, steps=8, block_length=4), 5, 0).blocks
    assert blocks == (BlockPlan(0, 9, 3), BlockPlan(0, 13, 3), BlockPlan(0, 15, 2))


def test_fewer_steps_than_blocks_are_raised_and_said() -> None:
    schedule = plan(SamplingParams(max_tokens=8, steps=1, block_length=2), 0, 0)
    assert schedule.num_steps == 4
    assert schedule.notes == ("steps raised from 1 to 4: each of the 4 blocks needs one",)


def test_gaps_of_the_prompt_are_decoded_with_the_first_block() -> None:
    assert commits(SamplingParams(max_tokens=0), num_gaps=3) == [[1, 1, 1]]
    assert commits(SamplingParams(max_tokens=4, block_length=2), num_gaps=3) == [[1, 1, 1, 1, 1], [1, 1]]
    assert commits(SamplingParams(max_tokens=0, steps=2), num_gaps=3) == [[2, 1]]


def test_allow_mask_counts_as_the_official_sampler_does() -> None:
    """It counts the block's own masks only, so gaps take from the block's share and masks may be left."""
    schedule = plan(SamplingParams(max_tokens=4, allow_mask=True), 5, 3)
    assert schedule.blocks == (BlockPlan(5, 9, 4),)
    assert plan(SamplingParams(max_tokens=0, allow_mask=True), 5, 3).blocks == (BlockPlan(0, 5, 3),)


@given(
    max_tokens=st.integers(1, 70),
    steps=st.none() | st.integers(1, 150),
    block_length=st.none() | st.integers(1, 80),
)
def test_every_mask_is_committed_once_in_no_more_steps_than_asked_for(
    max_tokens: int, steps: int | None, block_length: int | None
) -> None:
    params = SamplingParams(max_tokens=max_tokens, steps=steps, block_length=block_length)
    blocks = plan(params, 3, 0).blocks
    per_step = commits(params)
    assert sum(map(sum, per_step)) == max_tokens
    ends = [3, *(block.end for block in blocks)]
    assert [sum(block) for block in per_step] == [stop - start for start, stop in pairwise(ends)]
    assert all(commit for block in per_step for commit in block)
    wanted = max_tokens if steps is None else max(steps, len(blocks))
    num_steps = sum(map(len, per_step))
    # Fewer only where a block has fewer masks than its share of the steps.
    shares = [wanted // len(blocks) + (index < wanted % len(blocks)) for index in range(len(blocks))]
    assert num_steps == sum(map(min, shares, map(sum, per_step))) if steps is not None else num_steps == max_tokens
    assert all(earlier >= later for block in per_step for earlier, later in pairwise(block))


@pytest.mark.parametrize(("step", "block", "index"), [(1, 0, 0), (3, 0, 2), (4, 1, 0), (8, 2, 1)])
def test_locate(step: int, block: int, index: int) -> None:
    schedule = plan(SamplingParams(max_tokens=10, steps=8, block_length=4), 5, 0)
    assert schedule.locate(step) == (schedule.blocks[block], index)


@given(
    requests=st.lists(
        st.tuples(
            st.builds(
                SamplingParams,
                max_tokens=st.integers(1, 60),
                block_length=st.none() | st.integers(1, 70),
                steps=st.none() | st.integers(1, 99),
                allow_mask=st.booleans(),
            ),
            st.integers(0, 30),
        ),
        min_size=1,
    ),
    block=st.integers(0, 5),
    num_masks=st.integers(0, 40),
    index=st.integers(0, 9),
)
def test_tensors_and_integers_get_the_same_numbers(
    requests: list[tuple[SamplingParams, int]], block: int, num_masks: int, index: int
) -> None:
    def full(value: int) -> Tensor:
        return torch.full((len(requests),), value)

    all_blocks = [blocks_of(*request) for request in requests]
    together = Blocks(
        *(torch.tensor([getattr(blocks, field.name) for blocks in all_blocks]) for field in fields(Blocks))
    )
    num_steps = together.num_steps(full(block), full(num_masks))
    got = torch.stack(
        (together.end(full(block)), together.start_of_count(full(block)), num_steps,
         quota(full(num_masks), num_steps, full(index)))
    )  # fmt: skip
    for blocks, column in zip(all_blocks, got.T.tolist(), strict=True):
        steps = blocks.num_steps(block, num_masks)
        expected = [blocks.end(block), blocks.start_of_count(block), steps, quota(num_masks, steps, index)]
        assert column == expected
