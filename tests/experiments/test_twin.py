"""Tables, pictures and sentences of the twins, and the command, on a tiny random model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from surelock import LLM, LockParams, SamplingParams
from surelock.cli.main import app
from surelock.eval.twin import Effort, TwinRecord, run_twin
from surelock.experiments.twin import twin_result
from surelock.experiments.twin.summary import spearman
from surelock.experiments.twin.words import bin_name
from surelock.experiments.write import write_result
from tests.checkpoints import write_checkpoint
from tests.tokenizer_folders import save

NEVER = LockParams(kl_threshold=-1.0)
LITERAL = LockParams(kl_threshold=1e6, min_visible_steps=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a token for each byte."""
    path = tmp_path_factory.mktemp("model")
    write_checkpoint(path, vocab_size=259, embedding_size=259, mask_token_id=1, eos_token_id=0, pad_token_id=0)
    return save(path)


@pytest.fixture(scope="module")
def record(folder: Path) -> TwinRecord:
    llm = LLM(folder, device="cpu")
    for layer in llm.transformer.layers:
        layer.attn_out.weight *= 6  # type: ignore[operator, union-attr]
    rules = {"default": LockParams(kl_threshold=1e6), "literal": LITERAL, "never": NEVER}
    params = SamplingParams(max_tokens=9, ignore_eos=True)
    return run_twin(llm, [[50, 60, 70], [80, 90, 100]], params, rules, effort=Effort(group_every=2))


def test_files(record: TwinRecord, tmp_path: Path) -> None:
    paths = write_result(tmp_path, twin_result(record, {"model": "tiny"}, raw=True), "surelock eval twin")
    names = {path.name for path in paths}
    assert {"twin.md", "twin.json", "twin.csv", "twin_steps.csv", "twin_locks.csv", "twin_spread.svg"} <= names
    with (tmp_path / "twin_steps.csv").open() as file:
        steps = list(csv.DictReader(file))
    assert {(row["rule"], row["step"]) for row in steps} == {
        (rule, str(step)) for rule in ("default", "literal", "never") for step in range(1, 10)
    }
    assert all(float(row["kl_mean"]) == 0 for row in steps if row["rule"] == "never")
    content = json.loads((tmp_path / "twin.json").read_text())
    assert "torch" in content["environment"]
    assert content["tables"][0]["name"] == "twin"
    page = (tmp_path / "twin.md").read_text()
    assert "never: with the same unmasking decisions no masked row differs at all." in page
    assert "ghosts frozen alone" in page
    for picture in ("twin_kl", "twin_groups", "twin_drift", "twin_spread"):
        assert f"]({picture}.png)" in page
        assert (tmp_path / f"{picture}.png").stat().st_size > 5000


def test_locks_one_by_one_are_written_only_if_asked_for(record: TwinRecord) -> None:
    assert "twin_locks" not in [table.name for table in twin_result(record, {}).tables]


def test_a_rule_that_never_locks_alone_has_a_page(folder: Path, tmp_path: Path) -> None:
    params = SamplingParams(max_tokens=3, ignore_eos=True)
    record = run_twin(LLM(folder, device="cpu"), [[50, 60]], params, {"never": NEVER})
    assert write_result(tmp_path, twin_result(record, {}), "surelock eval twin")


def test_bins_of_steps_are_named_by_both_ends() -> None:
    assert [bin_name(start) for start in (0, 1, 2, 32, 256)] == ["0", "1", "2 to 3", "32 to 63", "256 or more"]


def test_rank_correlation() -> None:
    a = np.arange(8.0)
    assert spearman(a, np.exp(a)) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    # Ranks 2.5, 2.5, 5, 5, 5, 7, 1, 8.
    tied = np.array([1.0, 1, 2, 2, 2, 3, 0, 5])
    assert spearman(a, tied) == pytest.approx(18.5 / (42 * 39.5) ** 0.5)
    assert spearman(a, np.zeros(8)) is None
    assert spearman(a[:3], a[:3]) is None


def test_command(folder: Path, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "results"
    prompts.write_text('{"prompt": "one two"}\n{"prompt": "red blu"}\n')
    arguments = ["eval", "twin", "-m", str(folder), "--prompts", str(prompts), "--num-prompts", "2", "-n", "5"]
    arguments += ["--rule", "default", "--rule", "literal@1e6", "--quick", "--out", str(out), "--device", "cpu"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert "- literal@1e6 (active ratio" in result.stdout
    facts = json.loads((out / "twin.json").read_text())["facts"]
    assert facts["rules"] == ["default", "literal@1e6"]
    assert facts["dtype"] == "float32"
    assert facts["locks_tried"] == 16


def test_command_refuses_an_unknown_rule(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["eval", "twin", "--rule", "soon", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the rule is 'soon'")
