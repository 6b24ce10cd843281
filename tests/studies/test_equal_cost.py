"""Comparison at equal cost, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from studies.equal_cost import Array, Curve, at_equal_cost, shared_places


def curve(costs: list[float], values: list[float], num_prompts: int = 4) -> Curve:
    """The same for every prompt."""
    ones = np.ones(num_prompts)
    return Curve(
        np.array([[each] * num_prompts for each in costs]),
        ones,
        np.array([[each] * num_prompts for each in values]),
        np.array([ones] * len(values)),
    )


def test_values_lie_on_lines_between_settings() -> None:
    # Settings in any order.
    line = curve([0.8, 0.4], [1.0, 0.0])
    assert line.at(np.array([0.4, 0.5, 0.8]), np.ones(4)).tolist() == pytest.approx([0.0, 0.25, 1.0])


def test_places_lie_between_the_ends_both_reach() -> None:
    found = shared_places(np.array([0.2, 0.8]), np.array([0.5, 1.1]))
    assert found is not None
    assert found.tolist() == pytest.approx([0.55, 0.6, 0.65, 0.7, 0.75])
    assert shared_places(np.array([0.2, 0.4]), np.array([0.5, 1.0])) is None


def test_a_better_family_is_better_by_the_distance_of_the_lines() -> None:
    found = at_equal_cost(curve([0.2, 0.8], [0.5, 1.1]), curve([0.2, 0.8], [0.4, 1.0]), seed=0)
    assert [each["place"] for each in found][:-1] == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7])
    assert found[-1]["place"] is None
    for each in found:
        assert (each["difference"], each["low"], each["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert (found[-1]["own"], found[-1]["other"]) == pytest.approx((0.8, 0.7))


def test_families_that_share_no_cost_are_not_compared() -> None:
    assert at_equal_cost(curve([0.2, 0.3], [1, 1]), curve([0.4, 0.5], [1, 1]), seed=0) == []


def test_the_interval_follows_the_prompts() -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=(2, 40))
    ones: Array = np.ones(40)
    cost = np.array([[0.2] * 40, [0.8] * 40])
    own = Curve(cost, ones, values + 0.2, values * 0 + 1)
    other = Curve(cost, ones, random.normal(size=(2, 40)), values * 0 + 1)
    found = at_equal_cost(own, other, seed=0)[-1]
    assert found["low"] < found["difference"] < found["high"]
    assert at_equal_cost(own, other, seed=0)[-1] == found
