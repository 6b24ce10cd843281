"""The grid that the default lock rule is chosen from: what was measured survives a stop, and a loss is seen as one."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from surelock import LockParams, SamplingParams
from surelock.measure.instrumented import InstrumentedDecoder
from tests.tiny import tiny_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield import_module("default_rule")
    for name in ("default_rule", "rule_decoding"):
        sys.modules.pop(name, None)


def run(rule: str, final: str, steps: str) -> dict[str, Any]:
    flops = {f"{mode}_{side}": 1.0 for mode in ("exact", "full") for side in ("locked", "base")}
    return {
        "decoder": "engine", "workload": "fitted", "rule": rule, "active_ratio": [0.5] * len(final),
        "final": final, "steps_right": steps, "mark": [1] * len(final), **flops,
    }  # fmt: skip


def test_a_second_start_goes_on_after_the_last_whole_run(script: Any, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl.gz"
    runs = script.Runs(path)
    for rule in ("none", "a", "b"):
        runs.add([run(rule, "1", "1")])
    whole = path.read_bytes()
    assert script.Runs(path).found == runs.found
    path.write_bytes(whole[:-15])
    again = script.Runs(path)
    assert [rule for _, _, rule in again.found] == ["none", "a"]
    again.add([run("b", "1", "1")])
    assert script.Runs(path).found == runs.found


def test_a_loss_of_worked_lines_is_a_loss(script: Any, tmp_path: Path) -> None:
    runs = script.Runs(tmp_path / "runs.jsonl.gz")
    num = 3000
    right = "1" * num
    loses = "0" * 40 + "1" * (num - 40)
    runs.add([run("none", right, right), run("same", right, right), run("lines", right, loses)])
    rows = {row["rule"]: row for row in script.table(runs)}
    assert rows["lines"]["final_difference"] == 0
    assert rows["lines"]["steps_right_difference"] == pytest.approx(-40 / num)
    assert (rows["lines"]["steps_right_lost"], rows["lines"]["steps_right_won"]) == (40, 0)
    assert script.holds(rows["same"])
    assert not script.holds(rows["lines"])
    # Few problems do not show that nothing is lost.
    few = script.Runs(tmp_path / "few.jsonl.gz")
    few.add([run("none", "1" * 100, "1" * 100), run("rule", "1" * 100, "0" + "1" * 99)])
    assert not script.holds(script.table(few)[1])


def test_a_refresh_of_the_grid_is_that_of_the_rule(script: Any) -> None:
    rules = [script.by_kl(50.0, 1), script.by_kl(50.0, 1, refresh=3)]
    params, canvases = SamplingParams(max_tokens=12), [list(range(1, 7)), list(range(5, 11))]
    decoder = InstrumentedDecoder(tiny_model())
    dense = import_module("rule_decoding").DenseRules(rules, len(canvases), params, decoder.model.device)
    tokens, counts = dense.decode(decoder, canvases)
    for place, refresh in enumerate((None, 3)):
        own = slice(2 * place, 2 * place + 2)
        found = decoder.run(canvases, replace(params, lock=LockParams(kl_threshold=50.0, refresh=refresh)))
        assert tokens[own] == found.tokens[:, 6:].tolist()
        assert [count["active"] for count in counts[own]] == found.num_active.sum(0).tolist()
    assert counts[2]["active"] > counts[0]["active"]


def test_the_grid_begins_with_what_decides_most(script: Any) -> None:
    jobs = script.grid()
    keys = [(job.decoder, job.workload.name, rule.name) for job in jobs for rule in job.rules]
    assert len(set(keys)) == len(keys)
    seen: set[tuple[str, str]] = set()
    for job in jobs:
        if job.rules[0].name == script.NO_LOCK:
            seen.add((job.decoder, job.workload.name))
        assert (job.decoder, job.workload.name) in seen, "what the others are compared with comes first"
    numbers = {(rule.lock.kl_threshold, rule.lock.min_visible_steps) for job in jobs for rule in job.rules if rule.lock}
    assert numbers >= {(kl, visible) for kl in script.THRESHOLDS for visible in (1, 2, 3, 4)}
