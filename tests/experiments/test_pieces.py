"""Lengths, costs and sentences."""

from __future__ import annotations

import numpy as np
import pytest

from surelock import LLM, LockParams, SamplingParams
from surelock.errors import ParameterError
from surelock.experiments import style, wording
from surelock.experiments.cost import BATCH_SIZE, COST_COLUMNS, batches, costs
from surelock.experiments.lengths import Length, of, parse_lengths
from surelock.experiments.result import Column, Table
from surelock.experiments.rules import NO_LOCK, default_rule, paper_rule


def test_lengths() -> None:
    assert of(64, (64, 32)) == (Length(64, 64), Length(64, 32))
    assert parse_lengths("--lengths", "64, 128/64") == (Length(64, 64), Length(128, 64))
    for wrong in ("", "64,", "0", "64/0", "8/9", "-1", "1e3", "9999999"):
        with pytest.raises(ParameterError, match="--lengths holds"):
            parse_lengths("--lengths", wrong)


def test_masked_floor() -> None:
    assert Length(64, 64).masked_floor(64) == pytest.approx(65 / 256)
    # Two tokens a step: 8, 6, 4 and 2 masks of 10 positions.
    assert Length(8, 4).masked_floor(2) == pytest.approx((8 + 6 + 4 + 2) / 40)


def test_costs_by_hand(tiny: LLM) -> None:
    prompts = [[5] * 3, [6] * 7, [7] * 5, [8] * 5, [9] * 2]
    length = Length(6, 6)
    params = SamplingParams(max_tokens=6, ignore_eos=True, lock=LockParams(kl_threshold=1e9))
    outputs = tiny.generate([{"prompt_token_ids": prompt} for prompt in prompts], params)
    found = costs(tiny.config, outputs, length)
    assert list(found) == [column.name for column in COST_COLUMNS]
    rows = [sum(output.stats.active_rows) for output in outputs]
    assert found["active_ratio"] == pytest.approx(sum(rows) / (6 * sum(len(prompt) + 6 for prompt in prompts)))
    # The first four are padded to 13 positions, and pads are computed in every step; the last is alone.
    pads = 6 * (4 + 0 + 2 + 2)
    assert found["paper_active_ratio"] == pytest.approx((sum(rows) + pads) / (6 * (4 * 13 + 8)))
    assert found["masked_floor"] < found["exact_ratio"] < found["paper_ratio"] < 1
    assert batches(5) == [slice(0, BATCH_SIZE), slice(BATCH_SIZE, 5)]


def test_no_lock_costs_everything(tiny: LLM) -> None:
    outputs = tiny.generate(
        [{"prompt_token_ids": [5, 6]}] * 2, SamplingParams(max_tokens=4, ignore_eos=True, lock=None)
    )
    found = costs(tiny.config, outputs, Length(4, 4))
    assert [found[name] for name in ("active_ratio", "exact_ratio", "full_ratio", "paper_ratio")] == [1, 1, 1, 1]


def test_rules() -> None:
    assert default_rule(5e-4).lock == LockParams()
    assert paper_rule(5e-3).lock == LockParams.paper(5e-3)
    assert paper_rule(5e-3, 10).percentile == 10
    assert str(NO_LOCK) == "no lock"
    assert str(default_rule(5e-4)) == "default rule, epsilon 0.0005"


def test_a_table_has_the_rows_of_its_columns() -> None:
    with pytest.raises(AssertionError):
        Table("t", "", (Column("a"), Column("b")), [{"b": 1, "a": 2}])


def test_shown() -> None:
    assert Column("a", "a", "{:.0e}").shown(5e-4) == "5e-4"
    assert Column("a", "a", "{:.3f}").shown(None) == "-"
    assert [Column("a", "a", "{:+.1%}").shown(value) for value in (-1e-9, 0.0, 1e-9, -0.001, 0.1)] == [
        "0.0%", "0.0%", "0.0%", "-0.1%", "+10.0%",
    ]  # fmt: skip
    assert Column("a", "a", "{:.0f}").shown(-0.2) == "0"
    assert Column("a", "a", "{:.1e}").shown(0.0) == "0"


def test_wording() -> None:
    assert wording.span([0.5004, 0.5]) == "0.500"
    assert wording.span([0.5, 0.25], 2) == "0.25 to 0.50"
    assert [wording.signed(value, 1) for value in (0.04, -0.04, 0.0, -0.0, 0.06, -1)] == [
        "0.0", "0.0", "0.0", "0.0", "+0.1", "-1.0",
    ]  # fmt: skip
    assert wording.change(-0.0001, -0.0125, 0.02) == "0.0 points (-1.2 to +2.0)"
    assert wording.signed_span([0.2, -0.1], 1) == "-0.1 to +0.2"
    assert wording.signed_span([0.0, -1e-9]) == "0.000"
    assert wording.threshold(5e-8) == "5e-8"
    assert [wording.scientific(value) for value in (6.456e-3, 9.47e-06, 0.0, 1.0)] == [
        "6.46e-3",
        "9.47e-6",
        "0",
        "1.00e0",
    ]
    assert wording.listed(["a", "b", "c"]) == "a, b and c"
    assert [wording.against(value, 1.0) for value in (1.1, 0.9, 1.0001)] == ["above", "below", "equal to"]
    assert wording.exclusions([], []) == "no interval leaves out 1"
    assert wording.exclusions(["x"], ["y", "z"]) == (
        "its interval lies above 1 at x and its interval lies below 1 at y and z"
    )


def test_an_axis_of_shares_does_not_blow_up_one_answer() -> None:
    for values, ends in (
        ((0.85, 0.8625), (0.80625, 0.90625)),
        ((1.0, 0.99), (0.945, 1.045)),
        ((0.2, 0.8), (0.17, 0.83)),
    ):
        _, ((axes,),) = style.axes_grid(1, 1, height=2)
        axes.plot((0, 1), values)
        style.share_axis(axes)
        assert axes.get_ylim() == pytest.approx(ends)


def test_an_interval_without_ends_is_not_drawn() -> None:
    _, ((axes,),) = style.axes_grid(1, 1, height=2)
    style.interval(axes, None, None, 0, style.BLUE)
    assert not axes.lines
    style.interval(axes, 0.1, 0.2, 3, style.BLUE)
    assert [np.asarray(line.get_xdata()).tolist() for line in axes.lines] == [[0.1, 0.2]]


def test_a_short_logarithmic_axis_has_several_numbers() -> None:
    figure, ((axes,),) = style.axes_grid(1, 1, height=2)
    axes.plot((0, 1), (5e-6, 1.8e-5))
    axes.set_yscale("log")
    style.few_ticks(axes)
    figure.draw_without_rendering()
    shown = [label.get_text() for label in axes.get_yticklabels() if 4.9e-6 < label.get_position()[1] < 1.9e-5]
    assert shown == ["5e-6", "7e-6", "1e-5"]
