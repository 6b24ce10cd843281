"""Rows to whole slots, against attention written out; unread elements are NaN."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surelock.ops.row_attention import RowSpan, Spans, row_attention


def written_out(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """queries [R, H, D] to keys, values [N, H_kv, D], in float64."""
    groups = queries.shape[1] // keys.shape[1]
    k, v = (x.double().repeat_interleave(groups, 1) for x in (keys, values))
    weights = (torch.einsum("rhd,nhd->rhn", queries.double(), k) / queries.shape[2] ** 0.5).softmax(-1)
    return torch.einsum("rhn,nhd->rhd", weights, v)


@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 17)), min_size=0, max_size=4),
    num_kv_heads=st.sampled_from([1, 2, 4]),
)
def test_ragged_spans_equal_attention_written_out(seed: int, lengths: list[tuple[int, int]], num_kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    starts = (20 * torch.randperm(6, generator=generator)).tolist()
    spans = [RowSpan(starts[i], rows, keys) for i, (rows, keys) in enumerate(lengths)]
    queries = torch.randn(sum(rows for rows, _ in lengths), 4, 8, generator=generator)
    keys, values = torch.full((2, 120, num_kv_heads, 8), torch.nan)
    for first, _, num_keys in spans:
        keys[first : first + num_keys] = torch.randn(num_keys, num_kv_heads, 8, generator=generator)
        values[first : first + num_keys] = torch.randn(num_keys, num_kv_heads, 8, generator=generator)

    attended = row_attention(queries, keys, values, Spans.of(spans, queries.device))

    start = 0
    for first, num_rows, num_keys in spans:
        rows, places = slice(start, start + num_rows), slice(first, first + num_keys)
        expected = written_out(queries[rows], keys[places], values[places])
        torch.testing.assert_close(attended[rows].double(), expected, rtol=1e-5, atol=1e-5)
        start += num_rows
