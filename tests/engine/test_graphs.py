"""What a captured forward needs to know before it is captured; replaying it needs a GPU (tests/gpu)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from surelock.engine.graphs import SCRATCH_SLOT, bucket, padded_spans
from surelock.ops.row_attention import RowSpan


@given(num_rows=st.integers(1, 40_000))
def test_buckets_hold_their_rows_with_little_padding(num_rows: int) -> None:
    size = bucket(num_rows)
    assert size >= num_rows
    assert bucket(size) == size
    if num_rows > 64:
        assert size % 32 == 0
        assert size - num_rows < max(32, num_rows / 16)


def test_buckets_are_few_and_never_shrink_with_more_rows() -> None:
    sizes = [bucket(num_rows) for num_rows in range(1, 8193)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) <= 96


@given(counts=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 50)), max_size=6), extra=st.integers(0, 100))
def test_padding_reads_and_writes_the_scratch_slot_only(counts: list[tuple[int, int]], extra: int) -> None:
    spans = [RowSpan(slot + 1, rows, keys) for slot, (rows, keys) in enumerate(counts)]
    num_rows = sum(span.num_rows for span in spans) + extra
    padded = padded_spans(spans, num_rows, 7)
    assert len(padded) == 7
    assert padded[: len(spans)] == spans
    assert sum(span.num_rows for span in padded) == num_rows
    assert all(span.slot == SCRATCH_SLOT and span.num_keys == 1 for span in padded[len(spans) :])
