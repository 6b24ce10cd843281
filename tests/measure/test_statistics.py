"""Tests and intervals against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surelock.errors import ParameterError
from surelock.measure.statistics import (
    McNemar,
    mcnemar,
    paired_difference,
    weighted_mean,
)

truths = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (3, 3, 1.0),
        # 2 x (1/2)^5 and 2 x (1/2)^10.
        (5, 0, 0.0625),
        (0, 10, 0.001953125),
        # 2 x (1 + 8 + 28) / 256.
        (2, 6, 74 / 256),
        # 2 x (1 + 10) / 1024.
        (9, 1, 22 / 1024),
    ],
)
def test_mcnemar(only_a: int, only_b: int, p_value: float) -> None:
    a = [True] * only_a + [False] * only_b + [True, False]
    b = [False] * only_a + [True] * only_b + [True, False]
    assert mcnemar(a, b) == McNemar(only_a, only_b, p_value)


def test_mcnemar_of_many_items() -> None:
    # A normal approximation with continuity correction: z = (200 - 1) / sqrt(10000).
    found = mcnemar([True] * 5_100 + [False] * 4_900, [False] * 5_100 + [True] * 4_900)
    assert found.p_value == pytest.approx(math.erfc(199 / 100 / math.sqrt(2)), rel=1e-3)


@given(truths)
def test_mcnemar_is_symmetric(pairs: list[tuple[bool, bool]]) -> None:
    a, b = [one for one, _ in pairs], [other for _, other in pairs]
    forward, backward = mcnemar(a, b), mcnemar(b, a)
    assert (forward.only_a, forward.p_value) == (backward.only_b, backward.p_value)
    assert 0 < forward.p_value <= 1


def test_difference_of_a_fair_coin_has_the_normal_interval() -> None:
    num = 400
    a, b = [1.0, 0.0] * (num // 2), [0.0] * num
    found = paired_difference(a, b, seed=1)
    # Standard error of a mean of 0s and 1s: sqrt(1/4 / 400) = 0.025.
    assert found.value == 0.5
    assert found.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.003)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.003)
    narrower = paired_difference(a, b, seed=1, level=0.68)
    assert narrower.low == pytest.approx(0.5 - 0.025, abs=0.003)


def test_difference_of_numbers_has_the_normal_interval() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(2, 3, size=900)
    found = paired_difference(list(a), [0.5] * 900, seed=2)
    error = float(a.std()) / 30
    assert found.value == pytest.approx(float(a.mean()) - 0.5)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    assert (found.high + found.low) / 2 == pytest.approx(found.value, abs=0.1 * error)


def test_difference_is_paired() -> None:
    a = [float(number) for number in range(100)]
    found = paired_difference(a, [value - 1 for value in a], seed=0)
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_difference_takes_truth_values() -> None:
    assert paired_difference([True, True, False, True], [False, True, False, False], seed=0).value == 0.5


def test_a_weighted_mean_has_the_normal_interval() -> None:
    rng = np.random.default_rng(5)
    counts = rng.integers(50, 150, size=1_000)
    sums = counts * 2 + rng.normal(0, 20, size=1_000)
    found = weighted_mean(list(sums), list(counts), seed=7)
    # Delta method: the residuals' deviation over the mean of the denominator.
    error = float((sums - found.value * counts).std()) / float(counts.mean()) / math.sqrt(1_000)
    assert found.value == pytest.approx(float(sums.sum() / counts.sum()))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.06)


def test_a_weighted_mean_skips_resamples_of_nothing() -> None:
    found = weighted_mean([0, 3], [0, 1], seed=0)
    assert (found.value, found.low, found.high) == (3, 3, 3)


def test_a_mean_over_groups_is_as_uncertain_as_the_groups() -> None:
    rng = np.random.default_rng(6)
    of_group = rng.normal(2, 1, size=400)
    found = weighted_mean(list(10 * of_group), [10] * 400, seed=1)
    # Ten equal values of a group are worth one.
    assert found.value == pytest.approx(float(of_group.mean()))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * float(of_group.std()) / 20, rel=0.06)


@given(truths, st.integers(0, 1 << 40))
def test_intervals_hold_the_value_and_repeat(pairs: list[tuple[bool, bool]], seed: int) -> None:
    a, b = [one for one, _ in pairs], [other for _, other in pairs]
    found = paired_difference(a, b, seed=seed)
    assert -1 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
    assert paired_difference(a, b, seed=seed) == found


@pytest.mark.parametrize(("a", "b", "named"), [([1.0], [1.0, 0.0], "a 1, b 2"), ([], [], "no items")])
def test_lengths_are_checked(a: list[float], b: list[float], named: str) -> None:
    with pytest.raises(ParameterError, match=named):
        mcnemar([bool(value) for value in a], [bool(value) for value in b])
    with pytest.raises(ParameterError, match=named):
        paired_difference(a, b, seed=0)
    with pytest.raises(ParameterError, match=r"lengths differ|no items"):
        weighted_mean(a, b, seed=0)


def test_what_cannot_be_divided_by_is_refused() -> None:
    with pytest.raises(ParameterError, match="den sums to 0"):
        weighted_mean([1], [0], seed=0)


@pytest.mark.parametrize("level", [0.0, 1.0, math.nan])
def test_level_is_checked(level: float) -> None:
    with pytest.raises(ParameterError, match="level is"):
        paired_difference([1.0], [0.0], seed=0, level=level)
