"""Order statistics inside rows, against numpy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from surelock.decoding.slotwise import percentile

row = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=6, max_size=6)


@given(rows=st.lists(row, min_size=1, max_size=4), percent=st.sampled_from([0.0, 10.0, 20.0, 37.5, 50.0, 90.0, 100.0]))
def test_percentile_is_numpys(rows: list[list[tuple[float, bool]]], percent: float) -> None:
    values = torch.tensor([[value for value, _ in one] for one in rows])
    where = torch.tensor([[is_in for _, is_in in one] for one in rows])
    got = percentile(values, where, torch.full((len(rows),), percent, dtype=torch.float64))
    for one_values, one_where, one_got in zip(values, where, got, strict=True):
        chosen = one_values[one_where].double().numpy()
        if len(chosen) == 0:
            assert one_got.isnan()
        else:
            assert float(one_got) == np.percentile(chosen, percent)
