"""What each experiment writes: tables, pages, pictures, and lines for what was left out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from surelock import LLM, LockParams, SamplingParams
from surelock.bench.driving import Job
from surelock.cli import experiment
from surelock.cli.main import app
from surelock.experiments.catalogue import flops_table, quality, thresholds, throughput
from surelock.experiments.lengths import Length
from surelock.experiments.registry import Experiment, experiments
from surelock.experiments.result import Column
from surelock.experiments.rules import NO_LOCK, default_rule, paper_rule
from tests.cli.conftest import assert_one_line_error
from tests.experiments.conftest import LIMIT, Ran, run

each_experiment = pytest.mark.parametrize("own", experiments(), ids=[each.folder for each in experiments()])


def content(ran: Ran, own: Experiment) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ran.folder / own.folder / f"{own.name}.json").read_text())
    return read


def table(ran: Ran, number: str, name: str) -> list[dict[str, str]]:
    (own,) = [each for each in experiments() if each.number == number]
    return list(csv.DictReader((ran.folder / own.folder / f"{name}.csv").read_text().splitlines()))


def test_there_are_the_papers_six() -> None:
    assert [each.number for each in experiments()] == ["1", "2", "3", "4", "5", "6"]
    assert len({each.name for each in experiments()}) == 6


@each_experiment
def test_files(ran: Ran, own: Experiment) -> None:
    names = {path.name for path in (ran.folder / own.folder).iterdir()}
    written = content(ran, own)
    assert {f"{own.name}.{suffix}" for suffix in ("md", "json", "csv")} <= names
    assert written["pictures"]
    for picture in written["pictures"]:
        png = (ran.folder / own.folder / f"{picture['name']}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        assert "<svg" in (ran.folder / own.folder / f"{picture['name']}.svg").read_text()
    assert written["environment"]["commit"] == "abc"
    assert written["facts"]["device"] == "cpu"
    assert written["findings"]


@each_experiment
def test_the_page_says_what_the_data_says(ran: Ran, own: Experiment) -> None:
    page = (ran.folder / own.folder / f"{own.name}.md").read_text()
    for shown in content(ran, own)["tables"]:
        columns = [Column(*column) for column in shown["columns"]]
        rows = list(csv.DictReader((ran.folder / own.folder / f"{shown['name']}.csv").read_text().splitlines()))
        assert len(rows) == len(shown["rows"])
        assert list(rows[0]) == [column.name for column in columns]
        for row, stored in zip(rows, shown["rows"], strict=True):
            values = {name: number(field, like=stored[name]) for name, field in row.items()}
            cells = [column.shown(values[column.name]) for column in columns if column.heading]
            assert f"| {' | '.join(cells)} |" in page


def number(field: str, *, like: object) -> object:
    """A field of a CSV file, of the type the JSON file has."""
    if field == "":
        return None
    return field if isinstance(like, str) else int(field) if isinstance(like, int) else float(field)


@each_experiment
def test_settings_beyond_the_model_are_left_out(ran: Ran, own: Experiment) -> None:
    page = (ran.folder / own.folder / f"{own.name}.md").read_text()
    (line,) = [line for line in content(ran, own)["left_out"] if "1024/1024" in line]
    assert f"the model's limit is {LIMIT}" in line
    assert f"- {line}" in page
    assert line in ran.result.stdout


def test_flops_table(ran: Ran) -> None:
    rows = table(ran, "1", "flops_table")
    assert len(rows) == 2 * 3 * 2
    for row in rows:
        ratio, floor = float(row["exact_ratio"]), float(row["masked_floor"])
        assert floor <= ratio <= 1
        assert ratio == pytest.approx(float(row["exact_locked"]) / float(row["exact_base"]))
        # Padding never locks.
        assert float(row["paper_ratio"]) >= ratio - 1e-9
    assert {row["equal"] for row in table(ran, "1", "self_check")} == {"yes"}


def test_flops_curves(ran: Ran) -> None:
    steps = table(ran, "2", "flops_curves_by_step")
    for row in table(ran, "2", "flops_curves"):
        curve = [
            float(step["active_ratio"])
            for step in steps
            if all(step[key] == row[key] for key in ("num_generated", "threshold", "rule", "percentile"))
        ]
        assert curve[0] == 1
        assert curve == sorted(curve, reverse=True)
        assert sum(curve) / len(curve) == pytest.approx(float(row["active_ratio"]))


def test_quality(ran: Ran) -> None:
    rows = table(ran, "3", "quality")
    for row in rows:
        assert float(row["ppl_ratio_low"]) <= float(row["ppl_ratio"]) <= float(row["ppl_ratio_high"])
        if row["rule"] == "no lock":
            assert float(row["agreement"]) == float(row["exact_ratio"]) == float(row["ppl_ratio"]) == 1
    tasks = table(ran, "3", "tasks")
    assert [row["rule"] for row in tasks] == ["no lock", "default rule", "paper rule"]
    assert {row["num_problems"] for row in tasks} == {"2"}


def test_throughput(ran: Ran) -> None:
    for row in table(ran, "4", "throughput"):
        tokens = int(row["batch_size"]) * int(row["num_generated"])
        assert float(row["tokens_per_s"]) == pytest.approx(tokens / float(row["seconds"]))
        assert float(row["possible"]) == pytest.approx(1 / float(row["active_ratio"]))
    for row in table(ran, "4", "throughput_by_step"):
        assert 0 < float(row["share"]) < 1
        assert float(row["ratio"]) > 0


def test_selection(ran: Ran) -> None:
    rows = {(row["length"], row["rule"], row["share"]): row for row in table(ran, "5", "selection")}
    assert len(rows) == 2 * 3 * 2
    only = rows["16/16", "no lock", "0.8"]
    assert 0.8 <= float(only["exact_ratio"]) < 0.9
    for rule in ("default rule", "paper rule"):
        alone, both = (float(rows["16/16", rule, share]["exact_ratio"]) for share in ("", "0.8"))
        assert both < float(only["exact_ratio"])
        assert float(rows["16/16", rule, "0.8"]["expected_ratio"]) == pytest.approx(0.8 * alone)


def test_thresholds(ran: Ran) -> None:
    rows = [row for row in table(ran, "6", "thresholds") if row["length"] == "16/16"]
    for rule in ("default rule", "paper rule"):
        ratios = [float(row["exact_ratio"]) for row in rows if row["rule"] == rule]
        assert ratios[-1] < ratios[0]


def test_published_numbers_stand_beside_the_papers_settings() -> None:
    paper, own = paper_rule(5e-3), default_rule(5e-3)
    assert flops_table.printed(Length(64, 64), paper) == {
        "published_active_ratio": 0.506,
        "published_locked": 4.565e11,
        "published_ratio": 0.506,
    }
    assert quality.printed(Length(128, 64), paper) == {"published_ppl_ratio": 1.18, "published_flops_ratio": 0.57}
    assert thresholds.printed(Length(64, 64), paper_rule(5e-8)) == {
        "published_ppl_ratio": 1.14,
        "published_flops_ratio": 0.66,
    }
    for module, wrong in ((flops_table, Length(64, 32)), (quality, Length(100, 100)), (thresholds, Length(128, 128))):
        for rule, length in ((own, Length(64, 64)), (paper, wrong), (NO_LOCK, Length(64, 64))):
            assert set(module.printed(length, rule).values()) == {None}


@pytest.mark.parametrize("timing", [throughput.in_turn, throughput.one_after_another])
def test_sides_are_timed_over_the_same_steps(timing: Callable[..., Any], tiny: LLM) -> None:
    prompts = [[5] * 6, [7] * 3]
    sides = {"no lock": None, "default rule": LockParams(kl_threshold=1e9), "paper rule": LockParams.paper(1e9)}
    jobs = {
        name: [Job(prompt, SamplingParams(max_tokens=8, lock=lock)) for prompt in prompts]
        for name, lock in sides.items()
    }
    found, drift = timing(tiny.transformer, jobs, 14)
    assert drift is None or drift > 0
    assert {name: len(timed.steps) for name, timed in found.items()} == dict.fromkeys(sides, 8)
    for timed in found.values():
        assert timed.seconds >= 0.99 * sum(timed.steps) > 0
    assert found["no lock"].active_ratio == 1 > found["default rule"].active_ratio


def test_cost_on_a_shape(patched: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = ("--quick", "--shape", "tiny", "--lengths", "24,16/8,600", "--device", "cpu", "--out", str(tmp_path))
    result = run("4", *arguments)
    assert result.exit_code == 0, result.stderr
    (folder,) = tmp_path.iterdir()
    assert folder.name == "4_throughput_tiny"
    written = json.loads((folder / "throughput_tiny.json").read_text())
    assert written["facts"]["lock"] == "scripted"
    assert "random" in written["method"]
    assert len(written["left_out"]) == 4
    rows = written["tables"][0]["rows"]
    assert {(row["num_generated"], row["batch_size"]) for row in rows} == {(24, 1), (24, 2)}
    assert all(row["seconds"] > 0 for row in rows)


def test_a_run_on_a_shape_that_is_cut_off_leaves_what_it_measured(
    patched: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[int, int]] = []

    def timed(subject: object, settings: object, length: Length, batch_size: int) -> dict[str, throughput.Timed]:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append((length.num_generated, batch_size))
        return {
            name: throughput.Timed([seconds] * 24, 24 * seconds, seconds / 2)
            for name, seconds in (("no lock", 2.0), ("default rule", 1.0), ("paper rule", 1.5))
        }

    monkeypatch.setattr(throughput, "_timed_on_shape", timed)
    arguments = ("--shape", "tiny", "--lengths", "24,16", "--batch-sizes", "4,1,1", "--device", "cpu")
    stopped = run("4", *arguments, "--out", str(tmp_path))
    assert stopped.exit_code != 0
    assert measured == [(24, 1), (24, 4)]
    (folder,) = tmp_path.iterdir()
    assert folder.name == "4_throughput_tiny_partial"
    written = json.loads((folder / "throughput_tiny.json").read_text())
    assert [(row["num_generated"], row["batch_size"]) for row in written["tables"][0]["rows"][::3]] == measured
    assert "2.00x at batch 1" in written["findings"][0]
    assert written["left_out"] == [
        "N_gen 16, batch 1: not measured when this was written",
        "N_gen 16, batch 4: not measured when this was written",
    ]
    assert written["pictures"] == []
    # What is left is a result like any other.
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == 0


def test_batch_sizes_of_a_model(patched: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = ("--quick", "--lengths", "8", "--batch-sizes", "3", "--device", "cpu", "--out", str(tmp_path))
    result = run("4", *arguments)
    assert result.exit_code == 0, result.stderr
    written = json.loads((tmp_path / "4_throughput" / "throughput.json").read_text())
    assert written["facts"]["batch_sizes"] == [3]
    assert {row["batch_size"] for row in written["tables"][0]["rows"]} == {3}


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("7",), "the experiment is '7'; use 1, 2, 3, 4, 5, 6, "),
        (("1", "--lengths", "8x"), "--lengths holds '8x'; write N_gen or N_gen/steps"),
        (("1", "--lengths", "8/9"), "there are more steps than tokens"),
        (("3", "--shape", "tiny"), "--shape is for experiment 4 alone"),
        (("all", "--shape", "tiny"), "--shape is for experiment 4 alone"),
        (("4", "--shape", "tiny", "--model", "x"), "--model contradicts --shape"),
        (("4", "--shape", "tiny", "--num-prompts", "3"), "--num-prompts contradicts --shape"),
        (("1", "--batch-sizes", "1,2"), "--batch-sizes is for experiment 4 alone"),
        (("all", "--batch-sizes", "1,2"), "--batch-sizes is for experiment 4 alone"),
        (("4", "--batch-sizes", "1,0"), "--batch-sizes is '1,0'; write positive integers with commas between them"),
        (("1", "--prompts", "missing.jsonl"), "missing.jsonl cannot be read"),
        (("1", "--prompts", "two.jsonl"), "32 prompts are asked for and --prompts two.jsonl has 2"),
    ],
)
def test_mistakes(
    arguments: tuple[str, ...],
    fragment: str,
    patched: pytest.MonkeyPatch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.jsonl").write_text('{"turns": ["What is it?"]}\n{"prompt": "Where?"}\n')
    assert_one_line_error(run(*arguments, "--device", "cpu", "--out", str(tmp_path / "out")), fragment)


def test_prompts_of_a_file(patched: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "mt_bench.jsonl"
    file.write_text('{"turns": ["What is it?", "And why?"]}\n{"prompt": "Where was it?"}\n')
    out = tmp_path / "out"
    result = run(
        "1", "--prompts", str(file), "--num-prompts", "2", "--lengths", "4", "--device", "cpu", "--out", str(out)
    )
    assert result.exit_code == 0, result.stderr
    facts = json.loads((out / "1_flops_table" / "flops_table.json").read_text())["facts"]
    assert facts["prompts"] == "mt_bench.jsonl, chat template"


def test_half_precision_measures_no_rounding(patched: pytest.MonkeyPatch, tiny: LLM, tmp_path: Path) -> None:
    half = copy(tiny)
    half.transformer = deepcopy(tiny.transformer).to(torch.bfloat16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "load_llm", lambda *arguments: half)
        out = ("--device", "cpu", "--out", str(tmp_path))
        assert run("6", "--quick", "--num-prompts", "1", "--lengths", "2", *out).exit_code == 0
    written = json.loads((tmp_path / "6_thresholds" / "thresholds.json").read_text())
    assert any(line.startswith("epsilon 5e-8") for line in written["left_out"])
    assert min(row["threshold"] for row in written["tables"][0]["rows"]) >= 1e-6
