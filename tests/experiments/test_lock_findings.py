"""Refresh, schedules and drift as findings, on a tiny random model."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from surelock import LLM
from surelock.experiments.findings import adaptive, kv_drift, refresh
from surelock.experiments.lengths import Length
from surelock.experiments.prompts import Prompts
from surelock.experiments.registry import open_questions
from surelock.experiments.sweep.answers import choose_problems
from surelock.experiments.workbench import Options, Workbench
from surelock.experiments.write import write_result

# Settings of one batch each.
TINY: dict[ModuleType, dict[str, Any]] = {
    refresh: {
        "num_prompts": 1, "num_problems": 1, "tasks": ("unit",), "lengths": (Length(6, 6),), "tokens_per_step": 32
    },
    adaptive: {"num_prompts": 1, "num_problems": 1, "tasks": ("unit",), "lengths": (Length(32, 4),)},
    kv_drift: {
        "num_prompts": 2, "num_problems": 1, "num_forced": 1, "tasks": ("unit",), "lengths": (Length(6, 6),),
        "tokens_per_step": 32
    },
}  # fmt: skip
MAIN = {refresh: "refresh", adaptive: "adaptive_texts", kv_drift: "kv_drift_texts"}


@pytest.fixture
def bench(tiny: LLM, patched: pytest.MonkeyPatch) -> Workbench:
    return Workbench(tiny, Prompts(tiny), Options(quick=True))


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))


@pytest.mark.parametrize("module", list(TINY), ids=lambda module: module.FINDING.name)
def test_finding(module: Any, bench: Workbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "QUICK", replace(module.QUICK, **TINY[module]))
    result = module.FINDING.run(bench)
    assert result.findings
    assert (result.number, result.name) == ("finding", module.FINDING.name)
    written = {path.name for path in write_result(tmp_path, result, "command")}
    assert {f"{result.name}.{suffix}" for suffix in ("md", "json", "csv", "png", "svg")} <= written
    page = (tmp_path / f"{result.name}.md").read_text()
    assert all(f"- {sentence}" in page for sentence in result.findings)
    table = rows(tmp_path, MAIN[module])
    for row in table:
        assert 0 < float(row["active_ratio"]) <= 1
        assert 0 <= float(row["agreement"]) <= 1
    assert (float(table[0]["agreement"]), float(table[0]["active_ratio"]), float(table[0]["ppl_ratio"])) == (1, 1, 1)


def test_lengths_beyond_the_model_are_left_out(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in TINY:
        quick: Any = module
        monkeypatch.setattr(module, "QUICK", replace(quick.QUICK, **TINY[module] | {"lengths": (Length(512, 512),)}))
        result = quick.FINDING.run(bench)
        assert any("the model's limit" in line for line in result.left_out)
        write_result(tmp_path, result, "command")


def test_problems_share_their_lengths(tiny: LLM) -> None:
    found = choose_problems(tiny, 40, seed=0)
    assert Counter(each.problem.task for each in found) == dict.fromkeys(("shop", "story", "add", "unit", "json"), 8)
    assert Counter(each.problem.level for each in found) == {1: 20, 2: 20}
    assert len({(len(each.prompt), each.max_tokens) for each in found}) < 20
    assert len({each.problem.question for each in found}) == 40
    assert {each.max_tokens for each in choose_problems(tiny, 10, seed=0, max_tokens=32)} == {32}


def test_nothing_beats_a_setting_of_the_front() -> None:
    cheap = {"rule": "a", "change": "never", "agreement": 0.5, "active_ratio": 0.2}
    dear = {"rule": "a", "change": "refreshed every 4", "agreement": 0.9, "active_ratio": 0.6}
    beaten = {"rule": "b", "change": "never", "agreement": 0.5, "active_ratio": 0.3}
    (told,) = refresh._front([cheap, dear, beaten], "texts", "agreement", "active_ratio")
    assert told.endswith("a locked for good (0.200, 0.500) and a refreshed every 4 (0.600, 0.900).")


def test_saved_flops_are_compared_at_equal_active_ratio() -> None:
    def setting(criterion: str, active_ratio: float, full_ratio: float) -> dict[str, object]:
        return {"criterion": criterion, "active_ratio": active_ratio, "full_ratio": full_ratio}

    by_kl = [setting("KL", 0.4, 0.5), setting("KL", 0.6, 0.5)]
    by_drift = [setting("V drift", 0.7, 0.3), setting("V drift", 0.5, 0.5)]
    # Both reach 0.5 to 0.6, where drift goes from 0.5 to 0.4.
    assert kv_drift._saved(by_kl + by_drift, "V drift") == pytest.approx(1 - 0.45 / 0.5)
    assert kv_drift._saved(by_kl, "V drift") is None


def test_every_finding_is_named_where_people_look() -> None:
    from surelock.cli import experiment as command

    root = Path(__file__).parents[2]
    pages = [command.experiment.__doc__, (root / "docs/experiments.md").read_text()]
    index = (root / "docs/findings/README.md").read_text()
    for each in open_questions():
        assert all(page is not None and each.name in page for page in pages), each.name
        assert "near_synonyms.md" in index if each.name == "oscillation" else f"{each.name}.md" in index
