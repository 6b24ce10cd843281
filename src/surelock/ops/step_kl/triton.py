"""The sums of reference.py: a program for each row and piece of the vocabulary, then one for each row that merges."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from surelock.ops.special.triton import SERIES_LIMIT, expm1_series, log1p
from surelock.ops.step_kl.reference import FAR_APART, MOVED_FAR, StepKL

# Tokens of one piece: short so that few rows fill the device, long so that many rows spend little on merging.
SHORT_PIECE = 1024
LONG_PIECE = 2048
FEW_ROWS = 16
# float32 numbers that describe one piece.
NUM_SUMS = tl.constexpr(7)


@triton.jit
def _excess(offset, change, weight):
    """weight * expm1(-change) with weight = exp(offset), finite where exp(-change) alone would overflow."""
    moved = offset - change
    moved = tl.exp(tl.where(moved > 80.0, 80.0, moved))
    return tl.where(tl.abs(change) < SERIES_LIMIT, weight * expm1_series(-change), moved - weight)


@triton.jit
def piece_kernel(logits, previous, stride, previous_stride, sums, size, num_pieces, BLOCK: tl.constexpr):
    """One piece: what `_Partial` of reference.py holds, log sum exp z' as its top and the sum relative to it."""
    i_row = tl.program_id(0).to(tl.int64)
    i_piece = tl.program_id(1)
    o_id = i_piece * BLOCK + tl.arange(0, BLOCK)
    m_id = o_id < size
    # [BLOCK] each
    b_z = tl.load(logits + i_row * stride + o_id, mask=m_id, other=-float("inf")).to(tl.float32)
    b_old = tl.load(previous + i_row * previous_stride + o_id, mask=m_id, other=-float("inf")).to(tl.float32)
    # Maxima pass over NaN here as on the device, and NaN reaches the sums instead.
    b_number = tl.where(b_z == b_z, b_z, -float("inf"))
    top = tl.max(b_number, 0)
    top_id = tl.min(tl.where(b_number == top, o_id, size), 0)
    m_top = o_id == top_id
    # Read again: cheaper than finding it among the lanes.
    centre = tl.load(logits + i_row * stride + top_id).to(tl.float32)
    centre -= tl.load(previous + i_row * previous_stride + top_id).to(tl.float32)
    b_change = tl.where(m_id, (b_z - b_old) - centre, 0.0)
    b_offset = tl.where(m_id, b_z - top, -float("inf"))
    # top - top is 0, and NaN if the top is not finite.
    b_weight = tl.where(m_top, b_offset, tl.exp(b_offset))
    b_excess = _excess(b_offset, b_change, b_weight)

    b_old_number = tl.where(b_old == b_old, b_old, -float("inf"))
    old_top = tl.max(b_old_number, 0)
    b_old_weight = tl.where(m_id, tl.exp(b_old - old_top), 0.0)

    p_sums = sums + (i_row * num_pieces + i_piece) * NUM_SUMS
    tl.store(p_sums, top)
    tl.store(p_sums + 1, centre)
    tl.store(p_sums + 2, tl.sum(b_weight, 0))
    tl.store(p_sums + 3, tl.sum(b_weight * b_change, 0))
    tl.store(p_sums + 4, tl.sum(b_excess, 0))
    tl.store(p_sums + 5, old_top)
    tl.store(p_sums + 6, tl.sum(b_old_weight, 0))


@triton.jit
def merge_kernel(
    sums, kl, uncertainty, num_pieces, FAR_APART: tl.constexpr, MOVED_FAR: tl.constexpr, BLOCK: tl.constexpr
):
    """One row: every piece is brought to the largest top logit and its centre. float64 costs nothing on so few."""
    i_row = tl.program_id(0).to(tl.int64)
    o_piece = tl.arange(0, BLOCK)
    m_piece = o_piece < num_pieces
    p_sums = sums + (i_row * num_pieces + o_piece) * NUM_SUMS
    # [BLOCK] each
    b_top = tl.load(p_sums, mask=m_piece, other=-float("inf")).to(tl.float64)
    b_centre = tl.load(p_sums + 1, mask=m_piece, other=0.0).to(tl.float64)
    b_others = tl.load(p_sums + 2, mask=m_piece, other=0.0).to(tl.float64)
    b_drift = tl.load(p_sums + 3, mask=m_piece, other=0.0).to(tl.float64)
    b_excess = tl.load(p_sums + 4, mask=m_piece, other=0.0).to(tl.float64)
    b_old_top = tl.load(p_sums + 5, mask=m_piece, other=-float("inf")).to(tl.float64)
    b_old_sum = tl.load(p_sums + 6, mask=m_piece, other=0.0).to(tl.float64)

    top = tl.max(b_top, 0)
    m_top = o_piece == tl.min(tl.where(b_top == top, o_piece, BLOCK), 0)
    centre = tl.sum(tl.where(m_top, b_centre, 0.0), 0)
    b_offset = b_top - top
    b_factor = tl.where(m_piece, tl.exp(b_offset), 0.0)
    b_shift = tl.where(m_piece, b_centre - centre, 0.0)
    b_mass = b_others + 1
    others = tl.sum(b_factor * b_others + tl.where(m_top, 0.0, b_factor), 0)
    # For the tokens of a piece, D - c_new = (D - c_old) + shift.
    drift = tl.sum(b_factor * (b_drift + b_mass * b_shift), 0)
    b_rescale = b_offset - b_shift
    b_rescale = tl.exp(tl.where(b_rescale > 80.0, 80.0, b_rescale))
    excess = tl.sum(b_rescale * b_excess + b_mass * _excess(b_offset, b_shift, b_factor), 0)
    old_top = tl.max(b_old_top, 0)
    old_total = tl.sum(tl.where(m_piece, tl.exp(b_old_top - old_top), 0.0) * b_old_sum, 0)

    total = others + 1
    near = drift / total + log1p(excess / total)
    far = drift / total + centre - top - tl.log(total) + old_top + tl.log(old_total)
    # Rounding can leave -1e-8; NaN must stay NaN.
    found = tl.where((far <= FAR_APART) & (tl.abs(drift / total) <= MOVED_FAR), near, far)
    tl.store(kl + i_row, tl.where(found < 0, 0.0, found).to(tl.float32))
    tl.store(uncertainty + i_row, (others / total).to(tl.float32))


def kl_from_logits(logits: Tensor, previous: Tensor) -> StepKL:
    """KL(p_t || p_{t-1}) and 1 - max p_t of n rows; shapes in the package's docstring."""
    num_rows, size = logits.shape
    assert previous.shape == logits.shape
    assert logits.stride(1) == previous.stride(1) == 1
    result = StepKL.empty(num_rows, logits.device)
    if num_rows == 0:
        return result
    piece = SHORT_PIECE if num_rows <= FEW_ROWS else LONG_PIECE
    num_pieces = triton.cdiv(size, piece)
    sums = torch.empty((num_rows, num_pieces, NUM_SUMS.value), dtype=torch.float32, device=logits.device)
    piece_kernel[(num_rows, num_pieces)](
        logits, previous, logits.stride(0), previous.stride(0), sums, size, num_pieces, BLOCK=piece, num_warps=4
    )
    block = triton.next_power_of_2(num_pieces)
    merge_kernel[(num_rows,)](
        sums,
        *result,
        num_pieces,
        FAR_APART=FAR_APART,
        MOVED_FAR=MOVED_FAR,
        BLOCK=block,
        num_warps=4 if block >= 128 else 1,
    )
    return result
