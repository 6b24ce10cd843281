"""One program a row: x and delta are read once, total and normed written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def add_norm_kernel(x, delta, weight, normed, total, eps, size, HAS_DELTA: tl.constexpr, BLOCK: tl.constexpr):
    """One row; BLOCK is a power of two no smaller than the row."""
    i_row = tl.program_id(0).to(tl.int64)
    o_col = tl.arange(0, BLOCK)
    m_col = o_col < size
    # [BLOCK] each
    b_x = tl.load(x + i_row * size + o_col, mask=m_col, other=0.0)
    if HAS_DELTA:
        b_delta = tl.load(delta + i_row * size + o_col, mask=m_col, other=0.0)
        b_x = (b_x.to(tl.float32) + b_delta.to(tl.float32)).to(x.dtype.element_ty)
        tl.store(total + i_row * size + o_col, b_x, mask=m_col)
    b_wide = b_x.to(tl.float32)
    b_scale = tl.rsqrt(tl.sum(b_wide * b_wide) / size + eps)
    b_normed = (b_wide * b_scale).to(x.dtype.element_ty).to(tl.float32)
    b_weight = tl.load(weight + o_col, mask=m_col, other=0.0).to(tl.float32)
    tl.store(normed + i_row * size + o_col, (b_weight * b_normed).to(x.dtype.element_ty), mask=m_col)


def add_norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Norm of x + delta, and x + delta itself; shapes in the package's docstring."""
    num_rows, size = x.shape
    normed = torch.empty_like(x)
    total = x if delta is None else torch.empty_like(x)
    if num_rows:
        add_norm_kernel[(num_rows,)](
            x,
            x if delta is None else delta,
            weight,
            normed,
            total,
            eps,
            size,
            HAS_DELTA=delta is not None,
            BLOCK=triton.next_power_of_2(size),
            num_warps=8,
        )
    return normed, total
