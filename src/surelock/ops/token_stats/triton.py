"""A program for each row and piece of the vocabulary, read once, then one for each row that merges the pieces."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from surelock.ops.noise.triton import gumbel
from surelock.ops.special.triton import log1p
from surelock.ops.token_stats.reference import TokenStats

# Ids of one piece: short so that few rows fill the device, long so that many rows spend little on merging.
SHORT_PIECE = 1024
LONG_PIECE = 2048
FEW_ROWS = 16
# float32 numbers that describe one piece.
NUM_SUMS = tl.constexpr(4)

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _best(b_score, o_id, size):
    """The largest score and the lowest id that has it. Ids beyond the vocabulary score -inf and come last."""
    score = tl.max(b_score, 0)
    return score, tl.min(tl.where(b_score == score, o_id, size), 0)


@triton.jit
def piece_kernel(
    logits, stride, allow_mask, temperature, key, sums, best, best_token, size, mask_token_id, num_pieces,
    MAY_SAMPLE: tl.constexpr, ROUNDING: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One piece: top logit, sums over the others relative to it, second logit; best score and its id."""
    i_row = tl.program_id(0).to(tl.int64)
    i_piece = tl.program_id(1)
    o_id = i_piece * BLOCK + tl.arange(0, BLOCK)
    m_id = o_id < size
    # [BLOCK] each
    b_z = tl.load(logits + i_row * stride + o_id, mask=m_id, other=-float("inf")).to(ROUNDING).to(tl.float32)
    # Maxima pass over NaN here as on the device, and NaN reaches the sums instead.
    b_number = tl.where(b_z == b_z, b_z, -float("inf"))
    top, top_id = _best(b_number, o_id, size)
    m_top = o_id == top_id
    m_zero = b_z == -float("inf")
    # top - top is 0, and NaN if the top is not finite.
    b_below = tl.where(m_zero, 0.0, top - b_z)
    b_weight = tl.where(m_zero, 0.0, tl.where(m_top, b_below, tl.exp(-b_below)))
    second = tl.max(tl.where(m_top, -float("inf"), b_number), 0)

    # A greedy row's best is its top, but where that may be MASK.
    score, token = top, top_id
    leaves_out = (i_piece == mask_token_id // BLOCK) & (tl.load(allow_mask + i_row) == 0)
    if leaves_out:
        b_number = tl.where(o_id == mask_token_id, -float("inf"), b_number)
        score, token = _best(b_number, o_id, size)
    if MAY_SAMPLE:
        score = score.to(tl.float64)
        heat = tl.load(temperature + i_row)
        if heat > 0:
            b_noise = gumbel(tl.load(key + i_row), o_id.to(tl.int64))
            score, token = _best(b_number.to(tl.float64) + heat * b_noise, o_id, size)

    p_sums = sums + (i_row * num_pieces + i_piece) * NUM_SUMS
    tl.store(p_sums, top)
    tl.store(p_sums + 1, tl.sum(b_weight, 0))
    tl.store(p_sums + 2, tl.sum(b_weight * b_below, 0))
    tl.store(p_sums + 3, second)
    tl.store(best + i_row * num_pieces + i_piece, score)
    tl.store(best_token + i_row * num_pieces + i_piece, token)


@triton.jit
def merge_kernel(
    logits, stride, sums, best, best_token, token, probability, top_probability, second_probability, entropy,
    num_pieces, ROUNDING: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row. float64 costs nothing on so few numbers."""
    i_row = tl.program_id(0).to(tl.int64)
    o_piece = tl.arange(0, BLOCK)
    m_piece = o_piece < num_pieces
    p_sums = sums + (i_row * num_pieces + o_piece) * NUM_SUMS
    # [BLOCK] each
    b_top = tl.load(p_sums, mask=m_piece, other=-float("inf")).to(tl.float64)
    b_others = tl.load(p_sums + 1, mask=m_piece, other=0.0).to(tl.float64)
    b_drift = tl.load(p_sums + 2, mask=m_piece, other=0.0).to(tl.float64)
    b_second = tl.load(p_sums + 3, mask=m_piece, other=-float("inf")).to(tl.float64)
    b_score = tl.load(best + i_row * num_pieces + o_piece, mask=m_piece, other=-float("inf"))
    b_token = tl.load(best_token + i_row * num_pieces + o_piece, mask=m_piece, other=0)

    top, top_piece = _best(b_top, o_piece, BLOCK)
    m_top = o_piece == top_piece
    m_zero = b_top == -float("inf")
    b_below = tl.where(m_zero, 0.0, top - b_top)
    b_factor = tl.where(m_zero, 0.0, tl.exp(-b_below))
    # All but the top token of the row: the pieces' own tops count, but for that of the first.
    others = tl.sum(b_factor * b_others + tl.where(m_top, 0.0, b_factor), 0)
    drift = tl.sum(b_factor * (b_drift + b_below * (b_others + 1)), 0)
    second = tl.max(tl.maximum(b_second, tl.where(m_top, -float("inf"), b_top)), 0)
    # NaN where no logit is finite.
    total = others + tl.exp(top - top)

    # A piece's ids are all below those of the next.
    _, best_piece = _best(b_score, o_piece, BLOCK)
    chosen_id = tl.sum(tl.where(o_piece == best_piece, b_token, 0), 0)
    chosen = tl.load(logits + i_row * stride + chosen_id).to(ROUNDING).to(tl.float64)
    tl.store(token + i_row, chosen_id)
    tl.store(probability + i_row, (tl.exp(chosen - top) / total).to(tl.float32))
    tl.store(top_probability + i_row, (1 / total).to(tl.float32))
    tl.store(second_probability + i_row, (tl.exp(second - top) / total).to(tl.float32))
    tl.store(entropy + i_row, (log1p(others) + drift / total).to(tl.float32))


def token_stats(
    logits: Tensor,
    *,
    mask_token_id: int,
    allow_mask: Tensor,
    temperature: Tensor,
    key: Tensor,
    may_sample: bool,
    rounding: torch.dtype | None = None,
    choice_only: bool = False,
) -> TokenStats:
    """Statistics of n rows; shapes in the package's docstring. All of them are free here, so choice_only is ignored."""
    num_rows, size = logits.shape
    assert logits.stride(1) == 1
    stats = TokenStats.empty(num_rows, logits.device)
    if num_rows == 0:
        return stats
    piece = SHORT_PIECE if num_rows <= FEW_ROWS else LONG_PIECE
    num_pieces = triton.cdiv(size, piece)
    sums = torch.empty((num_rows, num_pieces, NUM_SUMS.value), dtype=torch.float32, device=logits.device)
    best = torch.empty(
        (num_rows, num_pieces), dtype=torch.float64 if may_sample else torch.float32, device=logits.device
    )
    best_token = torch.empty((num_rows, num_pieces), dtype=torch.int32, device=logits.device)
    piece_kernel[(num_rows, num_pieces)](
        logits, logits.stride(0), allow_mask.contiguous(), temperature.contiguous(), key.contiguous(),
        sums, best, best_token, size, mask_token_id, num_pieces,
        MAY_SAMPLE=may_sample, ROUNDING=TYPES[rounding or logits.dtype], BLOCK=piece, num_warps=4,
    )  # fmt: skip
    block = triton.next_power_of_2(num_pieces)
    merge_kernel[(num_rows,)](
        logits, logits.stride(0), sums, best, best_token, *stats, num_pieces,
        ROUNDING=TYPES[rounding or logits.dtype], BLOCK=block, num_warps=4 if block >= 128 else 1,
    )  # fmt: skip
    return stats
