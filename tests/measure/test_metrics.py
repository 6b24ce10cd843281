"""Repetition, entropy and agreement on texts small enough to count by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surelock.errors import ParameterError
from surelock.measure.metrics import agreement, distinct_n, entropy

ids = st.lists(st.integers(0, 5), max_size=30)


def test_distinct_n_is_the_share_of_different_n_grams() -> None:
    assert distinct_n([1, 2, 1, 2, 1], 1) == 2 / 5
    assert distinct_n([1, 2, 1, 2, 1], 2) == 2 / 4
    assert distinct_n([1, 2, 1, 2, 1], 3) == 2 / 3
    assert distinct_n([1, 2], 3) == 1
    with pytest.raises(ParameterError, match="n is 0; it must be at least 1"):
        distinct_n([1], 0)


def test_entropy_is_that_of_the_token_frequencies() -> None:
    assert entropy([7, 7, 7]) == 0
    assert entropy([]) == 0
    assert entropy([1, 2, 3, 4]) == pytest.approx(math.log(4))
    assert entropy([1, 1, 1, 2]) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_agreement_is_position_by_position() -> None:
    assert agreement([1, 2, 3, 4], [1, 9, 3, 4]) == 0.75
    assert agreement([], []) == 1
    with pytest.raises(ParameterError, match="1 and 2 tokens"):
        agreement([1], [1, 2])


@given(ids, st.integers(1, 4))
def test_repeating_a_text_never_makes_it_more_distinct(tokens: list[int], n: int) -> None:
    assert 0 < distinct_n(tokens + tokens, n) <= 1
    assert entropy(tokens + tokens) == pytest.approx(entropy(tokens))
    if len(tokens) >= n:
        assert distinct_n(tokens + tokens + tokens, n) <= distinct_n(tokens, n)
