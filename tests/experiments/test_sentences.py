"""Sentences of the experiments read right whichever way the numbers come out."""

from __future__ import annotations

from typing import Any

import pytest

from surelock.experiments.catalogue import quality, throughput
from surelock.experiments.findings import kv_drift, refresh, temperature

Row = dict[str, Any]


def _problems(difference: float, temperature: float) -> Row:
    return {
        "temperature": temperature,
        "difference": difference,
        "difference_low": difference - 0.02,
        "difference_high": difference + 0.02,
    }


@pytest.mark.parametrize(
    ("differences", "told"),
    [
        ((-0.03, 0.01), "the largest loss against no lock is -3.0 points (-5.0 to -1.0) at T = 0"),
        (
            (0.0, 0.01),
            "no temperature loses right answers against no lock, the smallest change is 0.0 points (-2.0 to +2.0) at "
            "T = 0",
        ),
        (
            (0.03, 0.012),
            "no temperature loses right answers against no lock, the smallest change is +1.2 points (-0.8 to +3.2) at "
            "T = 1",
        ),
    ],
)
def test_the_largest_loss_is_one(differences: tuple[float, float], told: str) -> None:
    assert temperature._worst([_problems(each, place) for place, each in enumerate(differences)]) == told


@pytest.mark.parametrize(
    ("active_ratio", "agreement", "told"),
    [
        (0.6, 0.75, "that is 0.100 of all rows more than locked for good, with an agreement 0.050 higher"),
        (0.45, 0.65, "that is 0.050 of all rows less than locked for good, with an agreement 0.050 lower"),
        (0.5, 0.7, "that is as many rows as locked for good, with an agreement as high"),
    ],
)
def test_a_refresh_costs_more_less_or_nothing(active_ratio: float, agreement: float, told: str) -> None:
    plain: Row = {"active_ratio": 0.5, "agreement": 0.7}
    assert refresh._price({"active_ratio": active_ratio, "agreement": agreement}, plain) == told


def test_repetition_is_spoken_of_only_where_both_fall() -> None:
    no_lock: dict[str, Row] = {name: {"distinct_3": 0.5} for name in ("64/64", "128/128")}
    up: Row = {"length": "64/64", "distinct_3": 0.6, "ppl_ratio": 0.9}
    down: Row = {"length": "128/128", "distinct_3": 0.4, "ppl_ratio": 0.9}
    worse: Row = {"length": "64/64", "distinct_3": 0.4, "ppl_ratio": 1.1}
    same: Row = {"length": "64/64", "distinct_3": 0.5, "ppl_ratio": 1.0}
    assert quality._diversity([up, down], no_lock) == (
        "Distinct-3 without locks is 0.500; the default rule changes it by -0.100 to +0.100, at 128/128 together with "
        "a lower Gen-PPL, which may then be repetition rather than quality."
    )
    assert quality._diversity([worse], no_lock).endswith("changes it by -0.100.")
    assert quality._diversity([same], no_lock).endswith("changes it by 0.000.")


@pytest.mark.parametrize(("drift", "told"), [(1.04, False), (0.99, True), (1.0, True)])
def test_slower_is_said_only_beyond_what_two_runs_without_locks_differ(drift: float, told: bool) -> None:
    place: Row = {"num_generated": 64, "batch_size": 8, "drift": None}
    row = place | {"speed_up": 0.976}
    rows = [place | {"speed_up": 1.0, "drift": drift}, row, place | {"batch_size": 4, "speed_up": 1.0, "drift": 2.0}]
    assert throughput._is_slower(row, rows) is told
    assert not throughput._is_slower(place | {"speed_up": 1.02}, rows)


@pytest.mark.parametrize(
    ("flip_rate", "told"),
    [
        (0.0, "and none of them has another likeliest token under either."),
        (0.01, "and 1.000% against 1.000% of them have another likeliest token."),
    ],
)
def test_no_flip_at_all_is_told_in_words(flip_rate: float, told: str) -> None:
    rows: list[Row] = [
        {
            "source": "texts", "scope": scope, "criterion": criterion, "active_ratio": ratio, "kl_per_row": 0.00646,
            "flip_rate": flip_rate,
        }
        for scope in kv_drift.SCOPES
        for criterion in (kv_drift.KL, kv_drift.JOINT)
        for ratio in (0.3, 0.5)
    ]  # fmt: skip
    found = kv_drift._damage_findings(rows)
    assert len(found) == len(kv_drift.SCOPES)
    assert "are 6.46e-3 nats from no lock under K/V drift and 6.46e-3 under KL" in found[0]
    assert found[0].endswith(told)
