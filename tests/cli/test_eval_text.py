"""`surelock eval text` and `harness`: what they print, write and refuse. The model is the embedded one."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from surelock import LLM
from surelock.cli.main import app
from surelock.measure.text.continuation import REAL_TEXT
from tests.cli.conftest import assert_one_line_error

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu")


@pytest.fixture
def run(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("surelock.cli.measuring.load_llm", lambda *_: llm)
    return lambda *arguments: CliRunner().invoke(app, ["eval", *map(str, arguments)], catch_exceptions=False)


TINY = ("--num-prompts", 2, "--prompt-tokens", 8, "--max-tokens", "4", "--rule", "paper@5e-3")


def test_text_prints_a_table_and_writes_files(run: Run, tmp_path: Path) -> None:
    result = run("text", *TINY, "--tokens-per-step", "1,2", "--out", tmp_path / "new")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("paper@5e-3") == 2
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "text.csv",
        "text.json",
        "text.md",
        "text_samples.jsonl",
    }
    with (tmp_path / "new/text.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["steps"], row["rule"]) for row in rows] == [
        (steps, rule) for steps in "42" for rule in ("none", "paper@5e-3", REAL_TEXT)
    ]
    content = json.loads((tmp_path / "new/text.json").read_text())
    assert content["judge"] == "surelock-judge"
    assert content["model"] == "surelock-demo"
    assert {"python", "torch", "commit"} <= content["environment"].keys()
    assert [row["rule"] for row in content["rows"]] == [row["rule"] for row in rows]
    samples = [json.loads(line) for line in (tmp_path / "new/text_samples.jsonl").read_text().splitlines()]
    assert len(samples) == 8
    table = (tmp_path / "new/text.md").read_text()
    assert table.startswith("# Text continuation\n")
    assert "| 4 | 2 | paper@5e-3 | 2 |" in table
    # No blocks were asked for: no column that would be empty.
    assert "block_length" not in table


def test_text_of_ones_own(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"turns": ["What is 2 + 3?"]}\n')
    result = run("text", *TINY, "--prompts", file, "--chat", "--rule", "none", "--json")
    assert "note: 2 prompts are asked for, and only 1 are there" in result.stderr
    content = json.loads(result.stdout)
    assert [(row["rule"], row["num_prompts"]) for row in content["rows"]] == [("none", 1), ("paper@5e-3", 1)]


def test_infill_fills_gaps(run: Run, tmp_path: Path) -> None:
    result = run("text", "--infill", "--num-prompts", 1, "--rule", "default", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "mcnemar p" in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        f"infill{end}" for end in (".csv", ".json", ".md", "_samples.jsonl")
    }


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--rule", "best"], "the rule is 'best'; use none, default, permanent, paper"),
        (["--max-tokens", "64,x"], "--max-tokens is '64,x'"),
        (["--tokens-per-step", "0"], "--tokens-per-step is '0'"),
        (["--prompts", "missing.txt"], "missing.txt cannot be read"),
        (["--infill", "--chat"], "--chat has no effect with --infill"),
        (["--infill", "--prompts", "a"], "--prompts has no effect with --infill"),
        (["--infill", "--prompt-tokens", "4"], "--prompt-tokens has no effect with --infill"),
        (["--infill", "--max-tokens", "32"], "--max-tokens has no effect with --infill"),
        (["--infill", "--tokens-per-step", "2"], "--tokens-per-step has no effect with --infill"),
        (["--infill", "--block-length", "8"], "--block-length has no effect with --infill"),
        (["--max-tokens", "100000", "--num-prompts", "1"], "no held-out text has 100064 tokens"),
        (["--judge", "no/such/judge", "--num-prompts", "1"], "no/such/judge"),
        (["--max-tokens", "500", "--num-prompts", "1"], "lower max_tokens to at most 448"),
        (["--out", "/dev/null/x"], "--out /dev/null/x cannot be written"),
    ],
)
def test_text_refuses_in_one_line(run: Run, arguments: list[str], fragment: str) -> None:
    assert_one_line_error(run("text", *arguments), fragment)


def test_the_harness_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert_one_line_error(run("harness", "--tasks", "gsm8k"), "pip install 'surelock[eval]'")


# What the harness' own libraries warn of is their business.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_harness_runs_a_task_of_ones_own(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'surelock[eval]'")
    (tmp_path / "data.jsonl").write_text('{"question": "The sea was", "answer": "blue"}\n')
    task = {
        "task": "surelock_sea",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(tmp_path / "data.jsonl")},
            "cache_dir": str(tmp_path / "cache"),
        },
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "sea.yaml").write_text(json.dumps(task))
    common = ("harness", "--include-path", tmp_path, "--max-gen-toks", 4)
    result = run(*common, "--tasks", "surelock_sea", "--rule", "paper", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "| surelock_sea | exact_match | none |" in result.stdout
    content = json.loads((tmp_path / "out/harness.json").read_text())
    assert content["rows"][0]["num_requests"] == 1
    (sample,) = [json.loads(line) for line in (tmp_path / "out/harness_samples.jsonl").read_text().splitlines()]
    assert (sample["task"], sample["doc_id"], sample["target"], sample["exact_match"]) == ("surelock_sea", 0, "blue", 0)
    assert len(sample["texts"]) == 1
    assert_one_line_error(run(*common, "--tasks", "surelock_land"), "the harness has no task 'surelock_land'")
    (tmp_path / "data.jsonl").unlink()
    assert run(*common, "--tasks", "surelock_sea").exit_code == 2
