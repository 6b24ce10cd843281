"""`surelock eval tasks` on a tiny model."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from surelock import LLM
from surelock.cli.main import app
from tests.cli.conftest import assert_one_line_error
from tests.server.tiny_llm import tiny_llm

QUICK = ("--types", "weekday,unit", "--levels", "1", "--per-type", "2", "--tokens-per-step", "16")


@pytest.fixture(scope="module")
def llm() -> LLM:
    return tiny_llm(LLM(device="cpu"), max_sequence_length=320)


@pytest.fixture
def options(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the model would have been loaded with."""
    seen: list[Any] = []

    def load(*arguments: Any) -> LLM:
        seen.extend(arguments)
        return llm

    monkeypatch.setattr("surelock.cli.measuring.load_llm", load)
    return seen


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["eval", "tasks", *arguments], catch_exceptions=False)


def test_files(options: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURELOCK_COMMIT", "abc")
    folder = tmp_path / "new" / "results"
    result = evaluate(*QUICK, "--rule", "paper@1e-2", "--json", "--out", str(folder))
    assert result.exit_code == 0, result.stderr
    written = json.loads((folder / "tasks.json").read_text())
    assert json.loads(result.stdout) == written
    assert written["environment"]["commit"] == "abc"
    assert written["settings"]["tokens_per_step"] == 16
    rows = list(csv.DictReader((folder / "tasks.csv").read_text().splitlines()))
    kinds = [(row["canvas"], row["rule"]) for row in rows]
    pairs = [(canvas, rule) for canvas in ("fitted", "padded") for rule in ("none", "paper@1e-2")]
    assert kinds == [pair for pair in pairs for _ in range(4)]
    # Two tasks and all of them.
    assert len(written["rows"]) == 4 * 3
    page = (folder / "tasks.md").read_text()
    assert "## Fitted canvases" in page
    assert "## Padded canvases" in page
    assert "- commit: abc" in page
    samples = [json.loads(line) for line in (folder / "tasks_samples.jsonl").read_text().splitlines()]
    assert len(samples) == len(rows)
    assert {"question", "right_answer", "text"} <= samples[0].keys()
    assert sorted(path.name for path in folder.iterdir()) == [
        "tasks.csv",
        "tasks.json",
        "tasks.md",
        "tasks_samples.jsonl",
    ]


def test_table(options: list[Any]) -> None:
    result = evaluate(*QUICK, "--canvas", "fitted", "--block-length", "32")
    assert result.exit_code == 0, result.stderr
    assert "right results, fitted canvases" in result.stdout
    assert "right worked lines, fitted canvases" in result.stdout
    # A row for each rule and verdict, each with its interval.
    assert result.stdout.count("worked lines") == 3 + 1
    assert "padded" not in result.stdout
    assert result.stdout.count("weekday") == 2
    for rule in ("none", "default", "paper"):
        assert rule in result.stdout
    # On a CPU the engine's own limits.
    assert options[1] is None


def test_a_task_without_test_problems_is_left_out(options: list[Any]) -> None:
    result = evaluate("--types", "unit,logic", *QUICK[2:], "--canvas", "fitted", "--rule", "none")
    assert result.stderr == "note: logic: no test problem at level 1, left out\n"
    assert "logic" not in result.stdout


def test_notes_go_to_stderr(options: list[Any]) -> None:
    result = evaluate(*QUICK, "--canvas", "padded", "-n", "8", "--rule", "none", "--json")
    assert result.stderr == "note: padded: 4 of 4 right answers are longer than their max_tokens\n"
    assert json.loads(result.stdout)["notes"]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--types", "add,divide"], "task is 'divide'; use one of add, sub"),
        (["--levels", "1,x"], "--levels is '1,x'"),
        (["--levels", "4"], "level is 4; use 1, 2 or 3"),
        (["--types", "logic", "--levels", "1"], "no test problem of logic at level 1"),
        (["--rule", "papre"], "the rule is 'papre'; use none, default, permanent, paper"),
        (["--block-length", "half"], "--block-length is 'half'; write a positive integer, or full"),
        (["--canvas", "fitted", "-n", "64"], "--max-tokens has no effect with --canvas fitted"),
        (["--canvas", "wide"], "'wide' is not one of"),
        (["--per-type", "0"], "--per-type"),
        (["-n", "0"], "--max-tokens"),
        (["--types", "weekday", "-n", "5000", "--canvas", "padded"], "no canvas fits the model's 320 positions"),
    ],
)
def test_mistakes(options: list[Any], arguments: list[str], fragment: str) -> None:
    assert_one_line_error(evaluate(*arguments), fragment)


def test_a_folder_that_cannot_be_written_is_found_first(options: list[Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_one_line_error(evaluate(*QUICK, "--out", str(tmp_path / "file")), "--out")
    assert not options
