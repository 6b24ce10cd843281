"""Each finding on a tiny random model: files, rows of the whole grid, sentences that follow the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surelock import LLM, LockParams
from surelock.eval.judge import Judge
from surelock.experiments.findings import noise_floor, short_outputs, temperature
from surelock.experiments.findings.noise_floor import Moved, bin_rows, threshold_rows
from surelock.experiments.findings.short_outputs import Answers, cheapest_without_loss, label, setting
from surelock.experiments.lengths import of
from surelock.experiments.prompts import Prompts
from surelock.experiments.result import Result, Row
from surelock.experiments.rules import NONE
from surelock.experiments.workbench import Options, Workbench
from surelock.experiments.write import write_result
from tests.experiments.conftest import LIMIT, FakeJudge

MODULES = (short_outputs, temperature, noise_floor)


@pytest.fixture(scope="module")
def results(tiny: LLM) -> Iterator[dict[str, Result]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Judge, "load", lambda *arguments, **options: FakeJudge())
        # Those with the shortest answers.
        patch.setattr(temperature, "_QUICK", replace(temperature._QUICK, tasks=("sub", "spell")))
        options = Options(quick=True, num_prompts=2, lengths=of(12, (12, 3)))
        bench = Workbench(tiny, Prompts(tiny), options)
        yield {module.FINDING.name: module.FINDING.run(bench) for module in MODULES}


def rows_of(result: Result, name: str) -> list[Row]:
    (table,) = [table for table in result.tables if table.name == name]
    return table.rows


@pytest.mark.parametrize("module", MODULES, ids=[module.FINDING.name for module in MODULES])
def test_files(results: dict[str, Result], module: Any, tmp_path: Path) -> None:
    own = module.FINDING
    assert own.folder == f"finding_{own.name}"
    result = results[own.name]
    assert result.findings
    assert result.left_out == []
    written = {path.name for path in write_result(tmp_path, result, "surelock")}
    assert {f"{own.name}.{suffix}" for suffix in ("md", "json", "csv", "png", "svg")} <= written
    page = (tmp_path / f"{own.name}.md").read_text()
    for sentence in result.findings:
        assert f"- {sentence}" in page
        assert "nan" not in sentence


def test_lengths_beyond_the_model_are_left_out(tiny: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Judge, "load", lambda *arguments, **options: FakeJudge())
    # The problems, which have lengths of their own, are asked nevertheless.
    for own, few in (
        (short_outputs, {"min_visible": (1,)}),
        (temperature, {"temperatures": (0.7,), "tasks": ("sub",)}),
    ):
        monkeypatch.setattr(own, "_QUICK", replace(own._QUICK, **few))
    bench = Workbench(tiny, Prompts(tiny), Options(quick=True, num_prompts=2, lengths=of(LIMIT)))
    for module in MODULES:
        result = module.FINDING.run(bench)
        assert f"the model's limit is {LIMIT}" in result.left_out[0]
        assert result.pictures == []


class TestShortOutputs:
    def test_every_rule_at_every_length(self, results: dict[str, Result]) -> None:
        rows = rows_of(results["short_outputs"], "short_outputs_grid_text")
        quick = short_outputs._QUICK
        assert len(quick.rules()) == len(set(quick.rules())) == 3 * 2
        wanted = [setting(rule) for rule in [None, *quick.rules()]]
        for length in ("12/12", "12/3"):
            found = [row for row in rows if row["length"] == length]
            assert [{name: row[name] for name in setting(None)} for row in found[:-1]] == wanted
            assert found[-1]["rule"] == short_outputs.CACHE
            for row in found:
                assert row["masked_floor"] <= row["active_ratio"] <= 1
            assert found[0]["active_ratio"] == found[0]["ppl_ratio"] == 1

    def test_problems(self, results: dict[str, Result]) -> None:
        rows = rows_of(results["short_outputs"], "short_outputs_grid_tasks")
        asked = {label(row): row["num_problems"] for row in rows}
        assert asked["no lock"] == asked["visible 1, no gate, epsilon 5e-4"] == 2
        assert asked["visible 0, gate 20 %, epsilon 5e-4"] == 2
        assert asked["visible 1, gate 20 %, epsilon 5e-4"] == asked["visible 0, no gate, epsilon 5e-4"] == 1
        (kinds,) = rows_of(results["short_outputs"], "short_outputs_kinds")
        assert list(kinds) == ["task", "num_problems", "no lock", "0 at 5e-4 gate 20", "1 at 5e-4", "2 at 5e-4"]

    def test_the_full_grid(self) -> None:
        full = short_outputs.Settings()
        assert len(full.rules()) == 4 * 2 * 3
        assert LockParams() in full.rules()
        assert LockParams.paper() in full.rules()
        assert {(one.num_generated, one.num_generated // one.steps) for one in full.lengths} == set(
            product((32, 64, 128), (1, 2, 4))
        )

    def test_the_cheapest_rule_without_loss(self) -> None:
        def row(low: float, ratio: float, num: int = 300, rule: str = short_outputs.LOCK) -> Row:
            return {"rule": rule, "difference_low": low, "active_ratio": ratio, "num_problems": num}

        fine = row(-0.01, 0.4)
        rows = [row(-0.011, 0.3), row(0.0, 0.5), fine, row(0.0, 0.1, rule=short_outputs.CACHE)]
        assert cheapest_without_loss(rows) is fine
        # Nothing lost of too few says little.
        assert cheapest_without_loss([row(0.0, 0.4, num=299)]) is None

    def test_sentences_follow_the_data(self) -> None:
        num = 400
        free = dict.fromkeys(range(num), True)
        lossy = free | dict.fromkeys(range(40), False)
        patient = LockParams(min_visible_steps=2)
        answers: dict[short_outputs.Key, Answers] = {
            (1, None): Answers(1.0, free),
            (1, LockParams()): Answers(0.40, lossy),
            (1, patient): Answers(0.45, free),
        }
        rows = short_outputs._task_rows(answers, seed=0)
        default, cheapest, step, members = short_outputs._task_findings(rows, answers, 1, seed=0)
        assert "default rule (visible 1, no gate, epsilon 5e-4): 90.0% of 400 right, -10.0 points" in default
        assert "cheapest rule surely within 1 point" in cheapest
        assert "visible 2, no gate, epsilon 5e-4: 0.0 points" in cheapest
        assert "at 0.450 of the rows" in cheapest
        assert step.startswith("One more visible step than the default rule has changes accuracy by +10.0 points")
        assert step.endswith("from 0.400 to 0.450.")
        assert "(0.400; 90.0%) and visible 2" in members

        answers[1, patient] = Answers(0.45, lossy)
        rows = short_outputs._task_rows(answers, seed=0)
        found = short_outputs._task_findings(rows, answers, 1, seed=0)
        assert "no rule asked all 400 problems is surely within 1 point" in found[1]

    def test_what_rounding_alone_does_is_said(self) -> None:
        rows: list[Row] = [
            {"length": length, "rule": rule, "gen_ppl": ppl, "ppl_ratio": ratio}
            for length, rule, ppl, ratio in (
                ("8/8", NONE, 5.0, 1.0),
                ("8/8", short_outputs.CACHE, 9.0, 2.0),
                ("8/4", NONE, 10.0, 1.0),
                ("8/4", short_outputs.CACHE, 11.0, 1.0),
            )
        ]
        (found,) = short_outputs._rounding_finding(rows)
        assert found.endswith("its Gen-PPL is 0.900 to 1.100 times that of the other, over all lengths.")
        assert not short_outputs._rounding_finding([row for row in rows if row["rule"] == NONE])


class TestTemperature:
    def test_rows(self, results: dict[str, Result]) -> None:
        rows = rows_of(results["temperature"], "temperature")
        other = [(row["unmasking"], row["temperature"]) for row in rows if row["rule"] == temperature.OTHER_SEED]
        # Nothing is random about low-confidence unmasking at temperature 0.
        assert other == [("low_confidence", 0.7), ("random", 0), ("random", 0.7)] * 2
        for row in rows:
            if row["rule"] == "no lock":
                assert row["agreement"] == row["ppl_ratio"] == row["active_ratio"] == 1
            if row["rule"] == temperature.OTHER_SEED:
                assert row["agreement"] < 1
        tasks = rows_of(results["temperature"], "temperature_tasks")
        assert len(tasks) == 2 * 2 * 3

    def test_intervals_are_named_by_temperature(self) -> None:
        rows = [
            {
                "length": "8/8",
                "unmasking": "random",
                "temperature": temperature_,
                "rule": rule,
                "ppl_ratio": 1.2,
                "ppl_ratio_low": low,
                "ppl_ratio_high": 1.5,
                "active_ratio": 0.5,
                "agreement": 0.5,
            }
            for temperature_, low in ((0.3, 0.9), (1.0, 1.1))
            for rule in ("default rule", "paper rule")
        ]
        found = temperature._text_findings(rows)
        assert len(found) == 2
        assert "1.200 at T = 0.3 and 1.200 at T = 1 (its interval lies above 1 at T = 1), at 0.500 of" in found[0]


class TestNoiseFloor:
    KIND = (noise_floor.FLOAT32, noise_floor.ALL)
    MOVED = Moved(
        np.array([0.0, 1e-9, 1e-3, 1e-6, 1.0]),
        np.array([0.0, 0.01, 0.2, 0.2, 0.9]),
        np.array([True, True, True, True, False]),
    )

    def test_bins_by_hand(self) -> None:
        rows = bin_rows(self.KIND, self.MOVED, (0.01, 0.5, 1.0))
        assert [(row["rows"], row["uncertainty_from"], row["num_rows"]) for row in rows] == [
            ("visible", 0.0, 2),
            ("visible", 0.01, 2),
            ("masked", 0.5, 1),
        ]
        assert rows[0]["max"] == 1e-9
        assert rows[1]["median"] == pytest.approx((1e-3 + 1e-6) / 2)

    def test_thresholds_by_hand(self) -> None:
        steps = Moved(np.array([1e-8, 1.0]), np.array([0.1, 0.1]), np.array([True, True]))
        small, large = threshold_rows(self.KIND, self.MOVED, steps, (1e-7, 1e-2))
        assert (small["null_above"], small["uncertain_above"], small["steps_below"]) == (0.5, 1, 0.5)
        assert small["means_something"] == "no"
        assert (large["null_above"], large["means_something"]) == (0, "yes")

    def test_every_kind_of_pair(self, results: dict[str, Result]) -> None:
        held = rows_of(results["noise_floor"], "noise_floor")
        assert {(row["precision"], row["pair"]) for row in held} == set(
            product(
                (noise_floor.FLOAT32, noise_floor.BFLOAT16),
                (noise_floor.BATCH, noise_floor.ALL, noise_floor.ONE_LESS),
            )
        )
        exact = [row for row in held if row["precision"] == noise_floor.FLOAT32]
        assert all(row["null_above"] == 0 and row["means_something"] == "yes" for row in exact)

    def test_sentences_follow_the_data(self) -> None:
        steps = self.MOVED
        held = threshold_rows(self.KIND, self.MOVED, steps, (1e-7, 1e-2))
        found = noise_floor._findings({self.KIND: self.MOVED}, held)
        assert len(found) == 1
        assert "of 4 null pairs" in found[0]
        assert "thresholds from 1e-2 mean something; at 1e-7 rounding alone would keep 50.0% of rows" in found[0]
