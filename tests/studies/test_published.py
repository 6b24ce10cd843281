"""The paper's numbers, spot-checked against each other and against what follows from the model's sizes."""

from __future__ import annotations

from statistics import fmean

import pytest

from studies import published
from studies.bench import Bench
from studies.paper.flops import self_check
from studies.study import Settings


@pytest.mark.parametrize(("num_generated", "threshold"), published.TABLE_1)
def test_figure_2_has_the_mean_of_table_1(num_generated: int, threshold: float) -> None:
    curve = published.active_ratio(20, num_generated, threshold)
    assert curve is not None
    assert curve[0] == 1
    assert fmean(curve) == pytest.approx(published.TABLE_1[num_generated, threshold][0], abs=2e-3)


def test_a_wider_gate_computes_fewer_rows() -> None:
    means = [fmean(published.active_ratio(m, 64, 5e-3) or ()) for m in (10, 20, 40)]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("wanted", [(30, 64, 5e-3), (20, 128, 5e-3), (20, 64, 1e-3)])
def test_there_is_no_other_curve(wanted: tuple[float, int, float]) -> None:
    assert published.active_ratio(*wanted) is None


def test_table_5_repeats_table_2() -> None:
    for threshold in (5e-4, 5e-3):
        printed = published.TABLE_2[64, 64, threshold]
        assert published.TABLE_5[threshold] == printed


def test_spots() -> None:
    assert published.TABLE_2[256, 256, 5e-4] == (1.02, 0.51)
    assert published.TABLE_4["both"] == (0.28, 1.73)
    assert published.FIGURE_3A[64, 1] == 0.73
    assert published.FIGURE_3A[1024, 8] is None


def test_the_counter_gives_every_baseline_of_table_2() -> None:
    rows = self_check(Bench(None), Settings(), {})["self_check"]
    assert len(rows) == 8
    assert {row["equal"] for row in rows} == {"yes"}
    assert rows[0]["counted"] == "4.488e11"
