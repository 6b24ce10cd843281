"""What long canvases cost is counted as the engine computes it, without a model, and told as the numbers are."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from surelock import LLM
from surelock.bench.driving import Driver, Job, bench_config, run_to_end
from surelock.bench.shapes import LLADA_8B, TINY
from surelock.bench.subject import random_subject
from surelock.cli import experiment
from surelock.cli.main import app
from surelock.experiments.findings.long_canvases import FINDING, SCRIPTS, Run, count, findings
from surelock.experiments.lengths import of
from surelock.experiments.prompts import Prompts
from surelock.experiments.result import Result, Row
from surelock.experiments.workbench import Options, Workbench
from surelock.flops import request_flops
from surelock.params import SamplingParams
from tests.cli.conftest import assert_one_line_error
from tests.experiments.conftest import run


@pytest.fixture(scope="module")
def full() -> Result:
    return count(Options())


@pytest.mark.parametrize("schedule", SCRIPTS.values())
def test_rows_are_those_of_the_engine(schedule: str) -> None:
    subject = random_subject("tiny", schedule, device=torch.device("cpu"))
    driver = Driver(subject.model, bench_config(1, 40), subject.rule)
    job = Job(subject.prompt(0, 12), SamplingParams(max_tokens=28, lock=subject.lock))
    (request,) = run_to_end(driver, [job]).requests
    own = Run.scripted(schedule, 12, 28)
    assert own.num_positions == request.num_positions == 40
    assert own.active.tolist() == request.active_rows
    assert own.masked.tolist() == request.num_proposed
    assert own.tested.tolist() == request.num_scored


@pytest.mark.parametrize("num_generated", [1, 2, 28])
def test_parts_are_all_there_is(num_generated: int) -> None:
    own = Run.scripted("paper", 12, num_generated)
    flops = request_flops(
        TINY,
        active_rows=own.active.tolist(),
        num_positions=own.num_positions,
        masked_rows=own.masked.tolist(),
        candidate_rows=own.tested.tolist(),
    )
    total = {name: int(values.sum()) for name, values in own.parts(TINY).items()}
    assert total["linear"] + total["attention"] == flops["exact"]["locked"]
    assert total["unlocked_linear"] + total["unlocked_attention"] == flops["exact"]["base"]
    assert total["linear"] + total["attention"] + total["head"] == flops["full"]["locked"]
    assert total["unlocked_linear"] + total["unlocked_attention"] + total["unlocked_head"] == flops["full"]["base"]


def test_totals(full: Result) -> None:
    rows = full.tables[0].rows
    assert [(row["num_generated"], row["rule"]) for row in rows] == [
        (num, rule) for num in (64, 256, 1024, 1984, 4032) for rule in SCRIPTS
    ]
    assert full.left_out == []
    for row in rows:
        num, positions = row["num_generated"], row["num_positions"]
        assert row["masked_floor"] == pytest.approx((num + 1) / (2 * positions))
        assert row["masked_floor"] <= row["exact_ratio"] < row["full_ratio"] < 1
        # 4 d N of 4 x 2 d^2 + 3 x 2 d f + 4 d N for each row and layer.
        hidden = LLADA_8B.hidden_size
        attention = 4 * hidden * positions
        linear = 8 * hidden**2 + 6 * hidden * LLADA_8B.intermediate_size
        body = num * positions * LLADA_8B.num_layers * (linear + attention)
        assert row["exact_base"] == body
        head = 2 * hidden * LLADA_8B.embedding_size * num * (num + 1) // 2
        assert row["full_base"] == body + head
        assert row["attention_unlocked"] == pytest.approx(attention / (linear + attention) * body / (body + head))
        assert row["head_unlocked"] == pytest.approx(head / (body + head))


def test_curves_begin_with_everything(full: Result) -> None:
    steps = full.tables[1].rows
    for total in full.tables[0].rows:
        own = [row for row in steps if all(row[name] == total[name] for name in ("num_generated", "rule"))]
        assert [row["step"] for row in own[:3]] == [1, 2, 3]
        assert own[-1]["step"] == total["num_generated"]
        assert own[0]["exact_ratio"] == own[0]["full_ratio"] == 1
        ratios = [row["exact_ratio"] for row in own]
        assert ratios == sorted(ratios, reverse=True)
        assert own[-1]["attention"] / sum(own[-1][name] for name in ("linear", "attention", "head")) == pytest.approx(
            total["attention_last"]
        )


def test_it_runs_and_is_bound_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "load_llm", lambda *arguments: pytest.fail("a model was loaded"))
    monkeypatch.setenv("SURELOCK_COMMIT", "abc")
    result = run("long_canvases", "--quick", "--lengths", "16,8/4,8192", "--out", str(tmp_path))
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / FINDING.folder
    names = {path.name for path in folder.iterdir()}
    assert {f"long_canvases.{suffix}" for suffix in ("md", "json", "csv", "png", "svg")} <= names
    assert {
        row["num_generated"] for row in csv.DictReader((folder / "long_canvases.csv").read_text().splitlines())
    } == {"16"}
    written = json.loads((folder / "long_canvases.json").read_text())
    assert written["left_out"] == [
        "N_gen/steps 8/4: scripts assume one token a step",
        "N_gen/steps 8192/8192: 8256 positions; the model's limit is 4096",
    ]
    assert any("Counted, not timed" in sentence for sentence in written["findings"])
    bound = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert bound.exit_code == 0, bound.stderr
    page = (tmp_path / "report.html").read_text()
    assert "shape of LLaDA-8B, no weights" in page
    assert "None" not in page


def test_among_findings_that_need_a_model(tiny: LLM) -> None:
    bench = Workbench(tiny, Prompts(tiny), Options(quick=True))
    result = FINDING.run(bench)
    assert {row["num_generated"] for row in result.tables[0].rows} == {64, 256}
    assert "model" in result.facts
    assert "tiny" not in str(result.facts)


def test_nothing_fits() -> None:
    result = count(Options(lengths=of(5000)))
    assert result.pictures == []
    assert len(result.left_out) == len(result.findings) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("--model", "x"), ("--judge", "x"), ("--dtype", "float16"), ("--device", "cpu"), ("--num-prompts", "3")],
)
def test_what_needs_a_model_is_refused(name: str, value: str, tmp_path: Path) -> None:
    refused = run("long_canvases", name, value, "--out", str(tmp_path))
    assert_one_line_error(refused, f"{name} does not apply to long_canvases, which is counted without weights")


def total(num_generated: int, full_ratio: float, **other: Any) -> Row:
    row = {"num_generated": num_generated, "rule": "default rule", "full_ratio": full_ratio, "possible": 1 / full_ratio}
    shares = dict.fromkeys(("attention_unlocked", "attention_locked", "attention_last"), 0.1)
    return row | {"exact_ratio": 0.5, "masked_floor": 0.4} | shares | other


@pytest.mark.parametrize(
    ("ratios", "told"),
    [
        ((0.3, 0.4, 0.5), "are 0.300 and 0.500 of those without, so a run could be 3.33 and 2.00 times as fast"),
        ((0.3, 0.4, 0.5), "The ratio never falls as the length grows."),
        ((0.5, 0.4, 0.4), "The ratio never rises as the length grows."),
        ((0.5, 0.4, 0.45), "The ratio is lowest at N_gen 128 and highest at N_gen 64."),
        ((0.5, 0.5, 0.5), "The ratio is the same at every length."),
    ],
)
def test_the_ratio_goes_where_it_goes(ratios: tuple[float, ...], told: str) -> None:
    rows = [total(64 * 2**place, ratio) for place, ratio in enumerate(ratios)]
    sentences = findings(rows, 64)
    assert told in sentences[0]
    assert sentences[0].startswith("default rule, N_gen 64 and 256: ")
    assert "at N_gen 64 and 256" not in sentences[0]


def test_one_length_and_a_head_that_costs_less() -> None:
    sentences = findings([total(64, 0.45)], 64)
    assert sentences[0].endswith("could be 2.22 times as fast if time went with FLOPs.")
    assert "0.500 are computed, 0.100 above the masked floor; the LM head changes the ratio by -0.050." in sentences[1]
    assert sentences[-2].startswith("N_gen 64: with prompts of 64 tokens")
    assert "more than 2.50 times as fast" in sentences[-2]
