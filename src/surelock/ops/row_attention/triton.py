"""A program for each tile of rows and head: queries stay, keys and values of the span stream by (FlashAttention-2)."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from surelock.ops.row_attention.spans import Spans

# Up to so many rows tiles are small: more programs, each of which streams the keys, fill more of the device.
FEW_ROWS = 64
LOG2_E = math.log2(math.e)


@triton.jit
def attend_kernel(
    queries, keys, values, output, row_starts, key_starts, num_keys, scale, num_spans,
    query_stride, key_stride, output_stride,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BD: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """One tile: BM rows of one span and one head against all keys of the span, BN at a time.

    Tiles are counted through the spans, so that none is planned for rows that are not there. BS and BD are powers of
    two no smaller than the number of spans and HEAD_DIM.
    """
    i_tile, i_head = tl.program_id(0), tl.program_id(1)
    o_span = tl.arange(0, BS)
    m_span = o_span < num_spans
    # [BS]: rows of each span, and the tiles up to its end
    b_start = tl.load(row_starts + o_span, mask=m_span, other=0)
    b_rows = tl.load(row_starts + o_span + 1, mask=m_span, other=0) - b_start
    b_end = tl.cumsum((b_rows + BM - 1) // BM, 0)
    i_span = tl.sum((b_end <= i_tile).to(tl.int32), 0)
    if i_span >= num_spans:
        return
    m_own = o_span == i_span
    first_tile = tl.sum(tl.where(m_own, b_end - (b_rows + BM - 1) // BM, 0), 0)
    row_end = tl.sum(tl.where(m_own, b_start + b_rows, 0), 0)
    row = tl.sum(tl.where(m_own, b_start, 0), 0) + (i_tile - first_tile) * BM
    key_start = tl.load(key_starts + i_span).to(tl.int64)
    num = tl.load(num_keys + i_span)

    o_row, o_dim, o_key = row + tl.arange(0, BM), tl.arange(0, BD), tl.arange(0, BN)
    m_row, m_dim = o_row < row_end, o_dim < HEAD_DIM
    p_q = queries + o_row.to(tl.int64)[:, None] * query_stride + i_head * HEAD_DIM + o_dim[None, :]
    # [BM, D]
    b_q = tl.load(p_q, mask=m_row[:, None] & m_dim[None, :], other=0.0)
    o_kv = (key_start + o_key) * key_stride + (i_head // GROUP) * HEAD_DIM
    p_k = keys + o_kv[None, :] + o_dim[:, None]
    p_v = values + o_kv[:, None] + o_dim[None, :]

    b_top = tl.full((BM,), -float("inf"), tl.float32)
    b_sum = tl.zeros((BM,), tl.float32)
    b_out = tl.zeros((BM, BD), tl.float32)
    # Whole blocks of keys first: they need no mask.
    whole = num // BN * BN
    for _ in range(0, whole, BN):
        # [D, BN], [BN, D]
        b_k = tl.load(p_k, mask=m_dim[:, None], other=0.0)
        b_score = tl.dot(b_q, b_k, input_precision="ieee") * scale
        b_new = tl.maximum(b_top, tl.max(b_score, 1))
        b_weight = tl.exp2(b_score - b_new[:, None])
        b_factor = tl.exp2(b_top - b_new)
        b_sum = b_sum * b_factor + tl.sum(b_weight, 1)
        b_out = b_out * b_factor[:, None]
        b_v = tl.load(p_v, mask=m_dim[None, :], other=0.0)
        b_out = tl.dot(b_weight.to(b_v.dtype), b_v, b_out, input_precision="ieee")
        b_top = b_new
        p_k += BN * key_stride
        p_v += BN * key_stride
    if whole < num:
        m_key = whole + o_key < num
        # [D, BN], [BN, D]
        b_k = tl.load(p_k, mask=m_dim[:, None] & m_key[None, :], other=0.0)
        b_score = tl.where(m_key[None, :], tl.dot(b_q, b_k, input_precision="ieee") * scale, -float("inf"))
        b_new = tl.maximum(b_top, tl.max(b_score, 1))
        b_weight = tl.exp2(b_score - b_new[:, None])
        b_factor = tl.exp2(b_top - b_new)
        b_sum = b_sum * b_factor + tl.sum(b_weight, 1)
        b_out = b_out * b_factor[:, None]
        b_v = tl.load(p_v, mask=m_key[:, None] & m_dim[None, :], other=0.0)
        b_out = tl.dot(b_weight.to(b_v.dtype), b_v, b_out, input_precision="ieee")

    b_out = b_out / b_sum[:, None]
    p_out = output + o_row.to(tl.int64)[:, None] * output_stride + i_head * HEAD_DIM + o_dim[None, :]
    tl.store(p_out, b_out.to(output.dtype.element_ty), mask=m_row[:, None] & m_dim[None, :])


def row_attention(queries: Tensor, keys: Tensor, values: Tensor, spans: Spans) -> Tensor:
    """Softmax attention of every row to all keys of its span; shapes in the package's docstring."""
    num_rows, num_heads, head_dim = queries.shape
    assert keys.stride() == values.stride()
    assert keys.stride()[1:] == queries.stride()[1:] == (head_dim, 1)
    output = torch.empty((num_rows, num_heads, head_dim), dtype=queries.dtype, device=queries.device)
    if num_rows:
        tile, block = (16, 128) if num_rows <= FEW_ROWS else (64, 64)
        num_spans = len(spans.num_keys)
        # A span's last tile may be short, so there may be one more for each span.
        attend_kernel[(triton.cdiv(num_rows, tile) + num_spans, num_heads)](
            queries, keys, values, output, spans.row_starts, spans.key_starts, spans.num_keys,
            LOG2_E / math.sqrt(head_dim), num_spans, queries.stride(0), keys.stride(0), output.stride(0),
            GROUP=num_heads // keys.shape[1], HEAD_DIM=head_dim, BD=max(16, triton.next_power_of_2(head_dim)),
            BM=tile, BN=block, BS=triton.next_power_of_2(num_spans), num_warps=4, num_stages=3,
        )  # fmt: skip
    return output
