"""Top candidates of each slot, against sorted()."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from surelock.ops.take_top import take_top

row = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=6, max_size=6)


@given(rows=st.lists(row, min_size=1, max_size=4), quotas=st.lists(st.integers(0, 8), min_size=4, max_size=4))
def test_take_top_takes_the_best_and_of_equals_the_leftmost(
    rows: list[list[tuple[float, bool]]], quotas: list[int]
) -> None:
    scores = torch.tensor([[value for value, _ in one] for one in rows])
    candidates = torch.tensor([[is_in for _, is_in in one] for one in rows])
    taken = take_top(scores, candidates, torch.tensor(quotas[: len(rows)]))
    for r, one in enumerate(rows):
        order = sorted((i for i, (_, is_in) in enumerate(one) if is_in), key=lambda i: (-float(scores[r, i]), i))
        assert set(taken[r].nonzero().squeeze(1).tolist()) == set(order[: quotas[r]])
