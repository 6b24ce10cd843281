"""One program a row: queries are rotated where they lie, keys and values go straight to their place."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rounded(x, dtype: tl.constexpr, ROUND: tl.constexpr):
    """x as a product in the input's type would give it, if ROUND."""
    return x.to(dtype).to(tl.float32) if ROUND else x


@triton.jit
def _rotated(first, second, cos, sin, ROUND: tl.constexpr):
    """Halves [H, D / 2] rotated, in float32; ROUND does what arithmetic in the input's type does."""
    dtype: tl.constexpr = first.dtype
    b_a, b_b = first.to(tl.float32), second.to(tl.float32)
    b_cos, b_sin = cos.to(tl.float32), sin.to(tl.float32)
    b_first = _rounded(b_a * b_cos, dtype, ROUND) - _rounded(b_b * b_sin, dtype, ROUND)
    b_second = _rounded(b_b * b_cos, dtype, ROUND) + _rounded(b_a * b_sin, dtype, ROUND)
    return b_first, b_second


@triton.jit
def rope_store_kernel(
    qkv, cos, sin, places, keys, values, place_stride,
    H: tl.constexpr, HKV: tl.constexpr, HALF: tl.constexpr,
    BH: tl.constexpr, BHKV: tl.constexpr, BHALF: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """One row: its H query heads, then its HKV key and value heads. BH, BHKV, BHALF are the next powers of two."""
    i_row = tl.program_id(0).to(tl.int64)
    i_place = tl.load(places + i_row)
    o_half = tl.arange(0, BHALF)
    m_half = o_half < HALF
    # [1, D / 2]
    b_cos = tl.load(cos + i_row * HALF + o_half, mask=m_half, other=0.0)[None, :]
    b_sin = tl.load(sin + i_row * HALF + o_half, mask=m_half, other=0.0)[None, :]
    p_row = qkv + i_row * (H + 2 * HKV) * 2 * HALF

    o_head = tl.arange(0, BH)[:, None]
    m_q = (o_head < H) & m_half[None, :]
    p_q = p_row + o_head * 2 * HALF + o_half[None, :]
    # [H, D / 2] each
    b_first = tl.load(p_q, mask=m_q, other=0.0)
    b_second = tl.load(p_q + HALF, mask=m_q, other=0.0)
    b_first, b_second = _rotated(b_first, b_second, b_cos, b_sin, ROUND)
    tl.store(p_q, b_first.to(qkv.dtype.element_ty), mask=m_q)
    tl.store(p_q + HALF, b_second.to(qkv.dtype.element_ty), mask=m_q)

    o_head = tl.arange(0, BHKV)[:, None]
    m_k = (o_head < HKV) & m_half[None, :]
    p_k = p_row + (H + o_head) * 2 * HALF + o_half[None, :]
    p_v = p_k + HKV * 2 * HALF
    o_place = i_place * place_stride + o_head * 2 * HALF + o_half[None, :]
    # [H_kv, D / 2] each
    b_first = tl.load(p_k, mask=m_k, other=0.0)
    b_second = tl.load(p_k + HALF, mask=m_k, other=0.0)
    b_first, b_second = _rotated(b_first, b_second, b_cos, b_sin, ROUND)
    tl.store(keys + o_place, b_first.to(qkv.dtype.element_ty), mask=m_k)
    tl.store(keys + o_place + HALF, b_second.to(qkv.dtype.element_ty), mask=m_k)
    tl.store(values + o_place, tl.load(p_v, mask=m_k, other=0.0), mask=m_k)
    tl.store(values + o_place + HALF, tl.load(p_v + HALF, mask=m_k, other=0.0), mask=m_k)


def rope_store(qkv: Tensor, cos: Tensor, sin: Tensor, places: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Rotated queries, a view of qkv; shapes in the package's docstring."""
    num_kv_heads, head_dim = keys.shape[1:]
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    assert keys.stride() == values.stride()
    assert keys.stride()[1:] == (head_dim, 1)
    assert qkv.is_contiguous()
    assert cos.is_contiguous()
    assert sin.is_contiguous()
    if qkv.shape[0]:
        rope_store_kernel[(qkv.shape[0],)](
            qkv, cos, sin, places, keys, values, keys.stride(0),
            H=num_heads, HKV=num_kv_heads, HALF=head_dim // 2,
            BH=triton.next_power_of_2(num_heads), BHKV=triton.next_power_of_2(num_kv_heads),
            BHALF=triton.next_power_of_2(head_dim // 2), ROUND=cos.element_size() < 4,
        )  # fmt: skip
    return qkv[:, : num_heads * head_dim].view(len(qkv), num_heads, head_dim)
