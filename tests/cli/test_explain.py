from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from surelock.cli.explain import rule_name
from surelock.cli.main import app
from surelock.measure.explain import read_cases
from surelock.params import LockParams
from tests.checkpoints import write_checkpoint


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), embedding_size=80)


@pytest.fixture(scope="module")
def saved(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two explained prompts as JSON lines, and the page written beside them."""
    folder = tmp_path_factory.mktemp("saved")
    prompts, page = folder / "prompts.jsonl", folder / "page.html"
    prompts.write_text('{"prompt_token_ids": [1, 2, 3]}\n{"prompt_token_ids": [5, 6]}\n{"prompt_token_ids": [7]}\n')
    rule = ["--kl-threshold", "1e6", "--min-visible-steps", "0"]
    result = run(
        *("-m", str(model), "--device", "cpu", "-f", str(prompts), "-n", "5", *rule),
        *("--worst", "2", "--json", "--html", str(page)),
    )
    assert result.exit_code == 0, result.stderr
    cases = folder / "cases.jsonl"
    cases.write_text(result.stdout)
    return cases, page


def test_json_is_cases_and_nothing_else(saved: tuple[Path, Path]) -> None:
    cases = read_cases(saved[0].read_bytes(), "stdout")
    assert len(cases) == 2
    assert cases[0].rule == "kl_threshold=1000000.0, min_visible_steps=0"
    assert saved[1].read_text().startswith("<!doctype html>")


def test_a_saved_result_is_shown_without_a_model(saved: tuple[Path, Path], tmp_path: Path) -> None:
    again = tmp_path / "again.html"
    result = run("--load", str(saved[0]), "--html", str(again))
    assert again.read_bytes() == saved[1].read_bytes()
    lines = result.stdout.splitlines()
    assert lines[0].startswith("prompt ")
    cases = read_cases(saved[0].read_bytes(), "saved")
    above = [line.removeprefix("no locks ") for line in lines if line.startswith("no locks ")]
    below = [line.removeprefix("locks    ") for line in lines if line.startswith("locks    ")]
    for case, unlocked, locked in zip(cases, above, below, strict=True):
        assert unlocked.split() == [position.unlocked.strip() for position in case.positions]
        assert locked.split() == [position.locked.strip() for position in case.positions]
        assert max(len(unlocked), len(locked)) <= 120


def test_mistakes(saved: tuple[Path, Path], tmp_path: Path) -> None:
    for arguments, fragment in (
        (["--no-lock"], "leaves nothing to explain"),
        (["--load", str(tmp_path / "none")], "cannot be read"),
        (["text", "--load", str(saved[0])], "TEXT contradicts --load"),
        (["--load", str(saved[1])], "line 1 is not a case"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert fragment in result.stderr
        assert result.stderr.count("\n") == 1


def test_rules_have_names() -> None:
    assert rule_name(LockParams()) == "default"
    assert rule_name(LockParams.permanent(1e-3)) == "permanent@0.001"
    assert rule_name(LockParams.paper()) == "paper"
    assert rule_name(LockParams.paper(5e-3)) == "paper@0.005"
    assert rule_name(LockParams(min_visible_steps=2, kl_threshold=0.1)) == "kl_threshold=0.1, min_visible_steps=2"
