"""A program for each slot and tile of positions: the rank of a candidate is how many others go before it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64
BLOCK = 64


@triton.jit
def take_top_kernel(
    scores, candidates, quota, taken, scores_stride, candidates_stride, length, TILE: tl.constexpr, BLOCK: tl.constexpr
):
    """TILE positions of one slot against all its positions, BLOCK at a time."""
    i_slot, i_tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_mine = i_tile * TILE + tl.arange(0, TILE)
    m_mine = o_mine < length
    # [TILE] each
    b_candidate = tl.load(candidates + i_slot * candidates_stride + o_mine, mask=m_mine, other=0) != 0
    b_mine = tl.load(scores + i_slot * scores_stride + o_mine, mask=m_mine, other=0.0)
    b_rank = tl.zeros((TILE,), tl.int64)
    for start in range(0, length, BLOCK):
        o_other = start + tl.arange(0, BLOCK)
        m_other = o_other < length
        # [BLOCK] each
        b_rival = tl.load(candidates + i_slot * candidates_stride + o_other, mask=m_other, other=0) != 0
        b_other = tl.load(scores + i_slot * scores_stride + o_other, mask=m_other, other=0.0)
        b_before = (b_other[None, :] > b_mine[:, None]) | (
            (b_other[None, :] == b_mine[:, None]) & (o_other[None, :] < o_mine[:, None])
        )
        b_rank += tl.sum((b_before & b_rival[None, :]).to(tl.int64), 1)
    b_taken = b_candidate & (b_rank < tl.load(quota + i_slot))
    tl.store(taken + i_slot * length + o_mine, b_taken, mask=m_mine)


def take_top(scores: Tensor, candidates: Tensor, quota: Tensor) -> Tensor:
    """The quota highest-scoring candidates of each slot; shapes in the package's docstring."""
    num_slots, length = scores.shape
    assert length == 0 or scores.stride(1) == candidates.stride(1) == 1
    taken = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    if taken.numel():
        take_top_kernel[(num_slots, triton.cdiv(length, TILE))](
            scores, candidates, quota.contiguous(), taken, scores.stride(0), candidates.stride(0), length,
            TILE=TILE, BLOCK=BLOCK,
        )  # fmt: skip
    return taken
