"""One read of gate and up, one write."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def swiglu_kernel(gate_up, out, size, BLOCK: tl.constexpr):
    """One row and BLOCK columns of it."""
    i_row = tl.program_id(0).to(tl.int64)
    o_col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_col = o_col < size
    # [BLOCK]
    b_gate = tl.load(gate_up + i_row * 2 * size + o_col, mask=m_col, other=0.0).to(tl.float32)
    b_up = tl.load(gate_up + i_row * 2 * size + size + o_col, mask=m_col, other=0.0).to(tl.float32)
    b_silu = (b_gate * tl.sigmoid(b_gate)).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + i_row * size + o_col, (b_silu * b_up).to(out.dtype.element_ty), mask=m_col)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up; shapes in the package's docstring."""
    num_rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((num_rows, size), dtype=gate_up.dtype, device=gate_up.device)
    if num_rows:
        swiglu_kernel[(num_rows, triton.cdiv(size, BLOCK))](gate_up, out, size, BLOCK=BLOCK)
    return out
